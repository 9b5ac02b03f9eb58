"""Roles flip and running requests move between two real engines, over a real fabric."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wire.errors import ErrorCode
from wire.messages import (
    FinishReason,
    LegEvent,
    LegFailed,
    LegFinished,
    LegMove,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    SamplingParams,
)
from worker.commands import Cancel, Continue, Drain, Flip, Migrate, Start
from worker.moves import Moves

SESSION = 1
PROMPT = tuple(range(1, 101))
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0, ignore_eos=True),
    "sampled with penalties": SamplingParams(
        temperature=0.9,
        top_p=0.95,
        top_k=40,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        seed=77,
        ignore_eos=True,
        logit_bias=((5, 1.5), (9, -2.0)),
    ),
    "with log-probabilities": SamplingParams(
        temperature=0.7, seed=5, ignore_eos=True, top_logprobs=3
    ),
}


def found(worker: Any, leg_id: int, kind: type) -> list[Any]:
    return [event for event in worker.of(leg_id) if isinstance(event, kind)]


def has(worker: Any, leg_id: int, kind: type) -> Callable[[], bool]:
    return lambda: bool(found(worker, leg_id, kind))


@pytest.fixture
def leg(start_leg: Any) -> Callable[..., Start]:
    """A function that builds the command to start a leg with a way of sampling."""

    def build(leg_id: int, sampling: SamplingParams, max_tokens: int = 40, **fields: Any) -> Start:
        start = start_leg(leg_id, PROMPT, **fields)
        request = replace(start.leg.request, sampling=replace(sampling, max_tokens=max_tokens))
        return Start(SESSION, replace(start.leg, request=request))

    return build


class Mover:
    """Does by hand what the relay does: moves leg 1 of `source` to leg 2 of `target`."""

    def __init__(self, source: Any, target: Any, drive: Any, leg: Any, way: SamplingParams) -> None:
        self.source, self.target = source, target
        self._drive = drive
        self._leg = leg
        self._way = way

    def run_to(self, num_tokens: int) -> None:
        self.source.apply(self._leg(1, self._way))
        self._drive(lambda: len(self.source.tokens(1)) >= num_tokens, self.source)

    def share(self) -> Any:
        sent = tuple(self.source.tokens(1))
        self.source.apply(self._leg(9, self._way, output_tokens=sent, share=True))
        [published] = found(self.source, 9, LegPublished)
        return published.handle

    def pull(self, handle: Any) -> None:
        sent = tuple(self.source.tokens(1))
        start = self._leg(2, self._way, output_tokens=sent, handle=handle, waits=True)
        self.target.apply(start)
        self._drive(has(self.target, 2, LegTransferred), self.target)

    def tell(self) -> int:
        tokens = tuple(self.source.tokens(1))
        self.target.apply(Continue(SESSION, 2, 0, tokens))
        return len(tokens)

    def finish(self) -> None:
        self._drive(has(self.target, 2, LegFinished), self.source, self.target)
        self.source.apply(Cancel(SESSION, 1))
        self._drive(
            lambda: self.source.core.is_quiet and self.target.core.is_quiet,
            self.source,
            self.target,
        )


def answer(drive: Any, worker: Any, start: Start) -> list[LegEvent]:
    worker.apply(start)
    drive(has(worker, 1, LegFinished), worker)
    return found(worker, 1, LegTokens)


@pytest.mark.parametrize("way", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("num_before", [1, 30])
def test_a_moved_request_answers_as_one_that_stayed(
    way: SamplingParams, num_before: int, make_worker: Any, drive: Any, leg: Any
) -> None:
    alone = [
        (token, event.logprobs)
        for event in answer(drive, make_worker(Role.DECODE), leg(1, way))
        for token in event.tokens
    ]
    mover = Mover(make_worker(Role.DECODE), make_worker(Role.DECODE), drive, leg, way)
    mover.run_to(num_before)
    handle = mover.share()
    mover.source.turn()
    mover.pull(handle)
    mover.source.turn()
    num_told = mover.tell()
    mover.finish()
    source = [(e.tokens[0], e.logprobs) for e in found(mover.source, 1, LegTokens)][:num_told]
    target = [(e.tokens[0], e.logprobs) for e in found(mover.target, 2, LegTokens)]
    assert found(mover.target, 2, LegTokens)[0].index == num_told
    assert [token for token, _ in source + target] == [token for token, _ in alone]
    for (_, here), (_, there) in zip(source + target, alone, strict=True):
        assert [one.logprob for one in here] == pytest.approx(
            [one.logprob for one in there], abs=1e-4
        )
    [transferred] = found(mover.target, 2, LegTransferred)
    assert transferred.failure == ""
    assert handle.num_tokens >= (100 + num_before - 1) // 16 * 16
    for worker in (mover.source, mover.target):
        assert worker.core.report().num_free_blocks == 128
        worker.core.check_integrity()


def test_a_target_that_is_told_before_its_kv_arrives_goes_on_when_it_has_arrived(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    way = SAMPLINGS["greedy"]
    alone = answer(drive, make_worker(Role.DECODE), leg(1, way))
    mover = Mover(make_worker(Role.DECODE), make_worker(Role.DECODE), drive, leg, way)
    mover.run_to(20)
    handle = mover.share()
    sent = tuple(mover.source.tokens(1))
    mover.target.apply(leg(2, way, output_tokens=sent, handle=handle, waits=True))
    mover.tell()
    mover.finish()
    assert list(sent) + mover.target.tokens(2) == [t for e in alone for t in e.tokens]


def test_a_target_whose_pull_fails_computes_what_is_missing(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    way = SAMPLINGS["sampled with penalties"]
    alone = answer(drive, make_worker(Role.DECODE), leg(1, way))
    mover = Mover(make_worker(Role.DECODE), make_worker(Role.DECODE), drive, leg, way)
    mover.run_to(20)
    handle = mover.share()
    mover.source.exporter.close()
    mover.pull(handle)
    [transferred] = found(mover.target, 2, LegTransferred)
    assert transferred.failure
    num_told = mover.tell()
    drive(has(mover.target, 2, LegFinished), mover.target)
    assert mover.source.tokens(1)[:num_told] + mover.target.tokens(2) == [
        t for e in alone for t in e.tokens
    ]


@pytest.mark.parametrize("way", SAMPLINGS.values(), ids=SAMPLINGS)
def test_a_target_that_is_behind_leaps_to_where_the_source_is(
    way: SamplingParams, make_worker: Any, drive: Any, leg: Any
) -> None:
    alone = [t for e in answer(drive, make_worker(Role.DECODE), leg(1, way)) for t in e.tokens]
    mover = Mover(make_worker(Role.DECODE), make_worker(Role.DECODE), drive, leg, way)
    mover.run_to(10)
    mover.pull(mover.share())
    num_told = mover.tell()
    drive(has(mover.target, 2, LegTokens), mover.target)
    drive(lambda: len(mover.source.tokens(1)) >= num_told + 12, mover.source)
    num_given = len(mover.target.tokens(2))
    mover.target.apply(Continue(SESSION, 2, 0, tuple(mover.source.tokens(1))))
    num_known = len(mover.source.tokens(1))
    mover.finish()
    given = mover.target.tokens(2)
    assert given == alone[num_told : num_told + num_given] + alone[num_known:]
    later = found(mover.target, 2, LegTokens)[num_given:]
    assert later[0].index == num_known
    for worker in (mover.source, mover.target):
        worker.core.check_integrity()


def test_the_source_may_end_while_its_blocks_are_read(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    way = SAMPLINGS["greedy"]
    mover = Mover(make_worker(Role.DECODE), make_worker(Role.DECODE), drive, leg, way)
    mover.run_to(20)
    handle = mover.share()
    mover.source.apply(Cancel(SESSION, 1))
    assert mover.source.core.report().num_free_blocks < 128, "the export holds its blocks"
    mover.pull(handle)
    assert found(mover.target, 2, LegTransferred)[0].failure == ""
    mover.target.apply(Cancel(SESSION, 2))
    drive(lambda: mover.source.core.is_quiet, mover.source, mover.target)
    assert mover.source.core.report().num_free_blocks == 128
    assert mover.target.core.report().num_free_blocks == 128


@pytest.mark.parametrize("stage", ["waiting", "pulling", "paused", "running"])
def test_a_cancelled_target_leaves_nothing_behind(
    stage: str, make_worker: Any, drive: Any, leg: Any
) -> None:
    way = SAMPLINGS["greedy"]
    mover = Mover(make_worker(Role.DECODE), make_worker(Role.DECODE), drive, leg, way)
    mover.run_to(20)
    handle = mover.share()
    if stage in ("paused", "running"):
        mover.pull(handle)
    else:
        sent = tuple(mover.source.tokens(1))
        mover.target.apply(leg(2, way, output_tokens=sent, handle=handle, waits=True))
    if stage == "pulling":
        mover.target.turn()
    if stage == "running":
        mover.tell()
        mover.target.turn()
    mover.target.apply(Cancel(SESSION, 2))
    mover.source.apply(Cancel(SESSION, 9))
    drive(has(mover.source, 1, LegFinished), mover.source, mover.target)
    drive(
        lambda: mover.source.core.is_quiet and mover.target.core.is_quiet,
        mover.source,
        mover.target,
    )
    assert found(mover.source, 1, LegFinished)[0].reason is FinishReason.LENGTH
    for worker in (mover.source, mover.target):
        assert worker.core.report().num_free_blocks == 128
        worker.core.check_integrity()


def test_nothing_is_shared_where_the_cache_holds_nothing(make_worker: Any, leg: Any) -> None:
    worker = make_worker(Role.DECODE)
    worker.apply(leg(9, SAMPLINGS["greedy"], share=True))
    [failed] = found(worker, 9, LegFailed)
    assert failed.code is ErrorCode.TRANSFER_FAILED
    assert worker.core.is_quiet


def test_a_cached_prefix_is_shared_when_no_request_runs(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    way = SAMPLINGS["greedy"]
    source, target = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    alone = [t for e in answer(drive, source, leg(1, way)) for t in e.tokens]
    source.apply(leg(9, way, share=True))
    handle = found(source, 9, LegPublished)[0].handle
    assert handle.num_tokens == 96
    target.apply(leg(1, way, handle=handle))
    drive(has(target, 1, LegFinished), source, target)
    assert target.tokens(1) == alone
    drive(lambda: source.core.is_quiet, source, target)


@pytest.mark.parametrize(("index", "num_tokens"), [(25, 3), (0, 5), (0, 40)])
def test_tokens_that_do_not_follow_are_refused(
    index: int, num_tokens: int, make_worker: Any, drive: Any, leg: Any
) -> None:
    way = SAMPLINGS["greedy"]
    mover = Mover(make_worker(Role.DECODE), make_worker(Role.DECODE), drive, leg, way)
    mover.run_to(20)
    mover.pull(mover.share())
    mover.target.apply(Continue(SESSION, 2, index, (3,) * num_tokens))
    [failed] = found(mover.target, 2, LegFailed)
    assert failed.code is ErrorCode.INVALID_REQUEST
    assert mover.target.core.report().num_free_blocks == 128


def test_a_flip_holds_at_once_and_is_over_when_the_old_legs_are(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    worker = make_worker(Role.DECODE)
    worker.apply(leg(1, SAMPLINGS["greedy"]))
    drive(lambda: len(worker.tokens(1)) > 3, worker)
    worker.core.apply(Flip(Role.PREFILL))
    outbox = worker.core.take_outbox()
    assert outbox.has_news
    assert outbox.flips == [Role.PREFILL]
    report = worker.core.report()
    assert (report.role, report.role_epoch, report.flipping) == (Role.PREFILL, 1, True)
    drive(has(worker, 1, LegMove), worker)
    drive(has(worker, 1, LegFinished), worker)
    assert len(found(worker, 1, LegMove)) == 1
    assert not worker.core.report().flipping
    worker.core.apply(Flip(Role.PREFILL))
    assert not worker.core.take_outbox().flips
    worker.core.apply(Flip(Role.DECODE))
    report = worker.core.report()
    assert (report.role, report.role_epoch, report.flipping) == (Role.DECODE, 2, False)


def test_a_flipped_worker_serves_both_phases_and_keeps_its_cache(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    way = SAMPLINGS["greedy"]
    first, second = make_worker(Role.DECODE), make_worker(Role.PREFILL)
    alone = [t for e in answer(drive, first, leg(1, way)) for t in e.tokens]
    first.apply(Flip(Role.PREFILL))
    second.apply(Flip(Role.DECODE))
    first.apply(leg(2, way, prefill_only=True))
    drive(has(first, 2, LegPublished), first)
    second.apply(leg(3, way, handle=found(first, 2, LegPublished)[0].handle))
    drive(has(second, 3, LegFinished), first, second)
    assert second.tokens(3) == alone
    assert found(first, 2, LegFinished)[0].num_cached_tokens == 96


def test_a_draining_worker_asks_for_its_running_legs_to_be_moved(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    worker = make_worker(Role.DECODE)
    worker.apply(leg(1, SAMPLINGS["greedy"]))
    drive(lambda: len(worker.tokens(1)) > 3, worker)
    assert not found(worker, 1, LegMove)
    worker.apply(Drain())
    drive(has(worker, 1, LegMove), worker)
    sent = tuple(worker.tokens(1))
    worker.apply(leg(9, SAMPLINGS["greedy"], output_tokens=sent, share=True))
    assert found(worker, 9, LegPublished)


def test_an_order_names_the_longest_requests() -> None:
    moves = Moves(Role.DECODE)
    for seq_id, num_tokens in ((1, 50), (2, 90), (3, 70)):
        assert moves.sampled(seq_id, num_tokens, 0.99) is None
    assert moves.longest(2) == [2, 3]
    assert moves.longest(2) == [1]
    moves.ended(2)
    assert moves.longest(2) == []


def test_a_full_pool_sends_its_longest_request_away_one_at_a_time() -> None:
    moves = Moves(Role.DECODE, move_above=0.8)
    assert moves.sampled(1, 50, 0.5) is None
    assert moves.sampled(2, 90, 0.8) is None
    assert moves.sampled(1, 51, 0.9) is None
    assert moves.sampled(2, 91, 0.9) == "90% of the KV pool is used"
    assert moves.sampled(1, 52, 0.9) is None
    moves.ended(2)
    assert moves.sampled(1, 53, 0.9) is not None


def test_an_order_to_migrate_asks_once_for_each_request(
    make_worker: Any, drive: Any, leg: Any
) -> None:
    worker = make_worker(Role.DECODE)
    worker.apply(leg(1, SAMPLINGS["greedy"]))
    drive(lambda: len(worker.tokens(1)) > 3, worker)
    worker.apply(Migrate(5))
    worker.apply(Migrate(5))
    assert len(found(worker, 1, LegMove)) == 1
