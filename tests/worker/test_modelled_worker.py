"""Workers that take a profile's time: real blocks, real transfers, no computation."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from baton.up_config import DEMO_MODEL
from profiles.catalog import dump, load_profile
from profiles.profile import Profile
from wire.messages import LegFinished, LegPublished, LegTokens, LegTransferred, Role
from worker.build import build
from worker.commands import Join
from worker.config import WorkerConfig
from worker.modelled import with_profile

PROFILE = Profile(
    name="toy",
    source="tests",
    step_s=0.004,
    sequence_s=0.0,
    context_token_s=0.0,
    prefill_token_s=1e-4,
    prefill_pair_s=0.0,
    kv_tokens=1600,
    kv_bytes_per_token=10_000,
    num_layers=8,
    max_model_len=1024,
    link_bytes_per_s=2e7,  # 0.5 ms a token
    link_latency_s=0.0,
    load_s=0.05,
    prefill_batch_tokens=64,
    decode_batch_tokens=32,
    max_num_seqs=5,
)
SESSION = 1
PROMPT = tuple(range(1, 101))


class _Worker:
    """A built worker whose loop the test runs."""

    def __init__(self, parts: Any) -> None:
        self.parts = parts
        self.events: list[tuple[float, Any]] = []
        parts.core.apply(Join(SESSION))

    def turn(self) -> bool:
        while (command := self.parts.inbox.take(block=False)) is not None:
            self.parts.core.apply(command)
        plan = self.parts.core.begin_step()
        if plan is not None:
            self.parts.core.run_step(plan)
        now_s = time.monotonic()
        found = self.parts.core.take_outbox().events.get(SESSION, [])
        self.events.extend((now_s, event) for event in found)
        return plan is not None

    def of(self, leg_id: int, kind: type) -> list[Any]:
        return [e for _, e in self.events if e.leg_id == leg_id and isinstance(e, kind)]

    def at_s(self, leg_id: int, kind: type) -> float:
        return next(s for s, e in self.events if e.leg_id == leg_id and isinstance(e, kind))

    def tokens(self, leg_id: int) -> list[int]:
        return [token for event in self.of(leg_id, LegTokens) for token in event.tokens]


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[[Role], _Worker]]:
    path = tmp_path / "toy.toml"
    path.write_text(dump(PROFILE))
    with contextlib.ExitStack() as stack:
        made: list[_Worker] = []

        def make(role: Role) -> _Worker:
            config = WorkerConfig(
                model=str(DEMO_MODEL), role=role, profile=str(path), worker_id=f"{role}-{len(made)}"
            )
            made.append(_Worker(stack.enter_context(build(config))))
            return made[-1]

        yield make
        for worker in made:
            worker.parts.core.check_integrity()


def test_pool_and_limits_are_the_profiles_unless_the_operator_chose_others(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(dump(PROFILE))
    assert load_profile(str(path)).kv_tokens == PROFILE.kv_tokens
    decode = with_profile(WorkerConfig(model="m", profile=str(path)))
    assert (decode.max_batch_tokens, decode.max_num_seqs, decode.device) == (32, 5, "cpu")
    prefill = with_profile(WorkerConfig(model="m", profile=str(path), role=Role.PREFILL))
    assert prefill.max_batch_tokens == 64
    own = WorkerConfig(model="m", profile=str(path), max_batch_tokens=7, max_num_seqs=3)
    assert (with_profile(own).max_batch_tokens, with_profile(own).max_num_seqs) == (7, 3)
    real = WorkerConfig(model="m")
    assert with_profile(real) is real


def test_loading_takes_its_time_and_the_pool_has_the_profiles_blocks(
    make_worker: Callable[[Role], _Worker],
) -> None:
    started_s = time.monotonic()
    worker = make_worker(Role.DECODE)
    assert time.monotonic() - started_s >= PROFILE.load_s
    assert worker.parts.core.report().num_blocks in (99, 100)  # a preflight may keep one
    assert worker.parts.max_model_len == 1024


def test_two_modelled_workers_answer_as_one_does_and_take_no_less_than_their_profile(
    make_worker: Callable[[Role], _Worker], drive: Any, start_leg: Any
) -> None:
    alone, prefill, decode = (make_worker(r) for r in (Role.DECODE, Role.PREFILL, Role.DECODE))
    alone.parts.core.apply(start_leg(1, PROMPT))
    drive(lambda: alone.of(1, LegFinished), alone)

    started_s = time.monotonic()
    prefill.parts.core.apply(start_leg(1, PROMPT, prefill_only=True))
    drive(lambda: prefill.of(1, LegPublished), prefill)
    (published,) = prefill.of(1, LegPublished)
    decode.parts.core.apply(start_leg(2, PROMPT, handle=published.handle))
    drive(lambda: decode.of(2, LegFinished), prefill, decode)

    assert decode.tokens(2) == alone.tokens(1)
    assert len(set(decode.tokens(2))) > 1
    chunks_s = 2 * PROFILE.step_s + 100 * PROFILE.prefill_token_s  # 64 tokens, then 36
    assert prefill.at_s(1, LegFinished) - started_s >= chunks_s
    (transferred,) = decode.of(2, LegTransferred)
    assert transferred.num_bytes == 100 * PROFILE.kv_bytes_per_token
    assert transferred.exposed_s >= PROFILE.kv_transfer_s(100) / PROFILE.num_layer_groups
    drive(lambda: prefill.parts.core.is_quiet and decode.parts.core.is_quiet, prefill, decode)


def test_pulls_into_one_worker_share_its_link(
    make_worker: Callable[[Role], _Worker], drive: Any, start_leg: Any
) -> None:
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    prompts = {leg_id: tuple(range(leg_id * 200, leg_id * 200 + 64)) for leg_id in (1, 2, 3)}
    for leg_id, prompt in prompts.items():
        prefill.parts.core.apply(start_leg(leg_id, prompt, prefill_only=True))
    drive(lambda: all(prefill.of(i, LegFinished) for i in prompts), prefill)
    started_s = time.monotonic()
    for leg_id, prompt in prompts.items():
        (published,) = prefill.of(leg_id, LegPublished)
        decode.parts.core.apply(start_leg(10 + leg_id, prompt, handle=published.handle))
    drive(lambda: all(decode.of(10 + i, LegTransferred) for i in prompts), prefill, decode)
    last_s = max(decode.at_s(10 + leg_id, LegTransferred) for leg_id in prompts)
    assert last_s - started_s >= 3 * PROFILE.kv_transfer_s(64)
    drive(lambda: all(decode.of(10 + i, LegFinished) for i in prompts), prefill, decode)
    drive(lambda: prefill.parts.core.is_quiet and decode.parts.core.is_quiet, prefill, decode)
