"""Both phases on real engines and a real fabric: one owner thread, no gRPC."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runtime.clock import VirtualClock
from wire.errors import ErrorCode
from wire.messages import (
    FinishReason,
    LegAccepted,
    LegFailed,
    LegFinished,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
)
from worker.commands import Cancel, Drain, Leave, Start

PROMPT = tuple(range(1, 101))


def has(worker: Any, leg_id: int, kind: type) -> Callable[[], bool]:
    return lambda: any(isinstance(event, kind) for event in worker.of(leg_id))


def only(worker: Any, leg_id: int, kind: type) -> Any:
    found = [event for event in worker.of(leg_id) if isinstance(event, kind)]
    assert len(found) == 1, worker.of(leg_id)
    return found[0]


def published(worker: Any, leg_id: int, drive: Any, *others: Any) -> Any:
    drive(has(worker, leg_id, LegPublished), worker, *others)
    return only(worker, leg_id, LegPublished).handle


@pytest.fixture
def alone(make_worker: Any, drive: Any, start_leg: Any) -> list[int]:
    """The answer of one engine that does both phases."""
    worker = make_worker(Role.DECODE)
    worker.apply(start_leg(1, PROMPT))
    drive(has(worker, 1, LegFinished), worker)
    return list(worker.tokens(1))


def test_two_cores_answer_as_one_engine_does(
    make_worker: Any, drive: Any, start_leg: Any, alone: list[int]
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    prefill.apply(start_leg(1, PROMPT, prefill_only=True))
    handle = published(prefill, 1, drive)
    decode.apply(start_leg(2, PROMPT, handle=handle))
    drive(has(decode, 2, LegFinished), prefill, decode)
    assert decode.tokens(2) == alone
    assert prefill.tokens(1) == alone[:1]
    assert only(prefill, 1, LegFinished).reason is FinishReason.PREFILLED
    assert only(decode, 2, LegFinished).reason is FinishReason.LENGTH
    transferred = only(decode, 2, LegTransferred)
    assert transferred.failure == ""
    assert transferred.num_bytes > 0
    drive(lambda: prefill.core.is_quiet and decode.core.is_quiet, prefill, decode)
    assert prefill.core.report().num_free_blocks == 128


def test_log_probabilities_come_once_a_token_from_the_worker_that_chose_it(
    make_worker: Any, drive: Any, start_leg: Any, alone: list[int]
) -> None:
    def wanting(leg_id: int, **leg: Any) -> Start:
        start = start_leg(leg_id, PROMPT, **leg)
        request = start.leg.request
        sampling = replace(request.sampling, top_logprobs=2)
        return Start(
            start.session_id, replace(start.leg, request=replace(request, sampling=sampling))
        )

    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    prefill.apply(wanting(1, prefill_only=True))
    handle = published(prefill, 1, drive)
    decode.apply(wanting(2, handle=handle))
    drive(has(decode, 2, LegFinished), prefill, decode)
    found = [e for e in (*prefill.of(1), *decode.of(2)) if isinstance(e, LegTokens)]
    assert [e.index for e in found] == list(range(len(alone)))
    assert [token for e in found for token in e.tokens] == alone
    for event in found:
        [one] = event.logprobs
        assert one.top[0] == (event.tokens[0], one.logprob)
        assert len(one.top) == 2
    drive(lambda: prefill.core.is_quiet and decode.core.is_quiet, prefill, decode)


def test_the_handle_goes_out_before_its_first_chunk_is_computed(
    make_worker: Any, start_leg: Any
) -> None:
    prefill = make_worker(Role.PREFILL)
    prefill.core.apply(start_leg(1, PROMPT, prefill_only=True))
    plan = prefill.core.begin_step()
    events = prefill.core.take_outbox().events[1]
    assert [type(event) for event in events] == [LegAccepted, LegPublished]
    prefill.core.run_step(plan)
    assert prefill.core.report().num_steps == 1


def test_what_passes_between_two_steps_is_part_of_what_they_take(
    make_worker: Any, start_leg: Any
) -> None:
    core = make_worker(Role.DECODE).core
    core.apply(start_leg(1, PROMPT))
    step_s = core.run_step(core.begin_step(), before_s=7.0)
    assert core.report().totals.step_s == pytest.approx(7.0 + step_s)
    assert core.report().step_s == step_s


def test_blocks_that_decode_holds_are_not_pulled_again(
    make_worker: Any, drive: Any, start_leg: Any
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    sizes = []
    for leg_id in (1, 2):
        prefill.apply(start_leg(leg_id, PROMPT, prefill_only=True))
        handle = published(prefill, leg_id, drive, decode)
        decode.apply(start_leg(leg_id, PROMPT, handle=handle))
        drive(has(decode, leg_id, LegFinished), prefill, decode)
        sizes.append(only(decode, leg_id, LegTransferred).num_bytes)
    assert only(decode, 2, LegAccepted).num_cached_tokens == 96
    assert sizes[1] == sizes[0] // 7  # the last, partial block of seven


def test_a_failed_pull_is_recomputed_with_the_same_answer(
    make_worker: Any, drive: Any, start_leg: Any, alone: list[int]
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    prefill.apply(start_leg(1, PROMPT, prefill_only=True))
    handle = published(prefill, 1, drive)
    prefill.exporter.close()
    decode.apply(start_leg(2, PROMPT, handle=handle))
    drive(has(decode, 2, LegFinished), decode)
    assert decode.tokens(2) == alone
    assert only(decode, 2, LegTransferred).failure


def test_a_resumed_stream_goes_on_behind_the_tokens_it_was_given(
    make_worker: Any, drive: Any, start_leg: Any, alone: list[int]
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    known = tuple(alone[:3])
    prefill.apply(start_leg(1, PROMPT, prefill_only=True, output_tokens=known))
    handle = published(prefill, 1, drive)
    decode.apply(start_leg(2, PROMPT, handle=handle, output_tokens=known))
    drive(has(decode, 2, LegFinished), prefill, decode)
    assert decode.tokens(2) == alone[3:]


def test_an_answer_of_one_token_ends_on_prefill_and_frees_its_export(
    make_worker: Any, drive: Any, start_leg: Any, alone: list[int]
) -> None:
    prefill = make_worker(Role.PREFILL)
    prefill.apply(start_leg(1, PROMPT, max_tokens=1, prefill_only=True))
    drive(has(prefill, 1, LegFinished), prefill)
    assert only(prefill, 1, LegFinished).reason is FinishReason.LENGTH
    assert prefill.tokens(1) == alone[:1]
    drive(lambda: bool(prefill.core.is_quiet), prefill)


@pytest.mark.parametrize("num_turns", [0, 1, 2, 5])
def test_a_cancel_at_any_stage_frees_both_sides(
    num_turns: int, make_worker: Any, drive: Any, start_leg: Any
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    prefill.apply(start_leg(1, PROMPT * 4, prefill_only=True))
    handle = published(prefill, 1, drive)
    decode.apply(start_leg(2, PROMPT * 4, max_tokens=50, handle=handle))
    for _ in range(num_turns):
        prefill.turn()
        decode.turn()
    prefill.apply(Cancel(1, 1))
    decode.apply(Cancel(1, 2))
    drive(lambda: prefill.core.is_quiet and decode.core.is_quiet, prefill, decode)
    assert only(decode, 2, LegFinished).reason is FinishReason.CANCELLED
    for worker in (prefill, decode):
        assert worker.core.report().num_free_blocks == 128


def test_a_session_that_ends_takes_its_legs_and_exports_along(
    make_worker: Any, drive: Any, start_leg: Any
) -> None:
    prefill = make_worker(Role.PREFILL)
    prefill.apply(start_leg(1, PROMPT, prefill_only=True))
    prefill.apply(start_leg(2, PROMPT, max_tokens=100))
    drive(has(prefill, 1, LegFinished), prefill)
    assert prefill.core.report().num_exports == 1
    prefill.apply(Leave(1))
    drive(lambda: bool(prefill.core.is_quiet), prefill)
    assert prefill.core.report().num_free_blocks == 128


def test_a_published_block_stays_until_its_lease_ends(
    make_worker: Any, drive: Any, start_leg: Any
) -> None:
    clock = VirtualClock()
    prefill = make_worker(Role.PREFILL, lease_clock=clock)
    prefill.apply(start_leg(1, PROMPT, prefill_only=True))
    drive(has(prefill, 1, LegFinished), prefill)
    clock.advance(29.0)
    prefill.turn()
    assert prefill.core.report().num_free_blocks < 128
    clock.advance(2.0)
    drive(lambda: prefill.core.report().num_free_blocks == 128, prefill)


def test_a_request_waits_at_decode_while_there_is_no_room(
    make_worker: Any, drive: Any, start_leg: Any
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE, num_blocks=10)
    other = tuple(range(20, 120))
    decode.apply(start_leg(1, PROMPT, max_tokens=30))
    prefill.apply(start_leg(2, other, prefill_only=True))
    handle = published(prefill, 2, drive, decode)
    decode.apply(start_leg(3, other, handle=handle))
    drive(has(decode, 3, LegFinished), prefill, decode)
    order = [event.leg_id for event in decode.events if isinstance(event, LegFinished)]
    assert order == [1, 3]


def test_a_draining_worker_refuses_new_legs_and_finishes_old_ones(
    make_worker: Any, drive: Any, start_leg: Any
) -> None:
    worker = make_worker(Role.DECODE)
    worker.apply(start_leg(1, PROMPT))
    worker.apply(Drain())
    worker.apply(start_leg(2, PROMPT))
    drive(has(worker, 1, LegFinished), worker)
    assert only(worker, 2, LegFailed).code is ErrorCode.DRAINING
    assert worker.core.report().draining


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ((), ErrorCode.INVALID_REQUEST),
        ((5000,), ErrorCode.INVALID_REQUEST),
        (PROMPT * 11, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
    ],
)
def test_a_request_that_cannot_run_fails_with_its_reason(
    prompt: tuple[int, ...], code: ErrorCode, make_worker: Any, start_leg: Any
) -> None:
    worker = make_worker(Role.DECODE)
    worker.apply(start_leg(1, prompt))
    assert only(worker, 1, LegFailed).code is code
    assert worker.core.is_quiet


def test_a_handle_that_covers_more_than_the_prompt_is_refused(
    make_worker: Any, drive: Any, start_leg: Any
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    prefill.apply(start_leg(1, PROMPT, prefill_only=True))
    handle = published(prefill, 1, drive)
    decode.apply(start_leg(2, PROMPT[:20], handle=handle))
    decode.turn()
    assert only(decode, 2, LegFailed).code is ErrorCode.INVALID_REQUEST
