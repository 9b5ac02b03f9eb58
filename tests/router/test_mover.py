"""What a migration does at each stage, whoever fails; the workers are scripted."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from router.candidates import Candidate, ClusterView
from router.migration import choose_target
from router.mover import Mover
from router.stitcher import Stitcher
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import ErrorCode
from wire.kv import FabricAddress, KVHandle
from wire.messages import (
    CancelLeg,
    ContinueLeg,
    FinishReason,
    GenerateRequest,
    LegFailed,
    LegFinished,
    LegMove,
    LegPublished,
    LegTransferred,
    Role,
    SamplingParams,
    StartLeg,
)

HANDLE = KVHandle(b"h" * 16, "a", 1, FabricAddress("127.0.0.1", 1), 32, 30.0)
TARGET_LEG, SHARE_LEG = 1, 2  # in the order in which a migration takes its ids
MOVE = LegMove(9, "asked")


class Worker:
    """A session that records what it is sent."""

    def __init__(self, worker_id: str) -> None:
        self.info = SimpleNamespace(worker_id=worker_id)
        self.sent: list[Any] = []
        self.reserved: set[int] = set()
        self.settled: set[int] = set()

    def reserve_leg(self, leg_id: int, **load: int) -> None:
        self.reserved.add(leg_id)

    def start_leg(self, leg: StartLeg, sink: Any) -> None:
        self.sent.append(leg)

    def continue_leg(self, told: ContinueLeg) -> None:
        self.sent.append(told)

    def settle_leg(self, leg_id: int) -> None:
        self.settled.add(leg_id)

    def cancel_leg(self, leg_id: int) -> None:
        self.reserved.discard(leg_id)
        self.sent.append(CancelLeg(leg_id))


class Scene:
    """A mover between two recorded workers; tokens 1 and 2 are sent."""

    def __init__(self, max_tokens: int = 100, has_target: bool = True) -> None:
        self.source, self.target = Worker("a"), Worker("b")
        self.stitcher = Stitcher()
        self.stitcher.push(0, (1, 2))
        self.metrics = Metrics(GATEWAY_METRICS)
        request = GenerateRequest("r", (5,) * 40, SamplingParams(max_tokens=max_tokens), ())
        found = self.target if has_target else None
        self.mover = Mover(
            request,
            self.stitcher,
            itertools.count(1).__next__,
            lambda event: None,
            lambda source, num_tokens, only_to_room: found,  # type: ignore[arg-type, return-value]
            self.metrics,
        )

    def to(self, stage: str) -> None:
        self.mover.ask(self.source, MOVE)  # type: ignore[arg-type]
        if stage != "sharing":
            self.mover.handle(LegPublished(SHARE_LEG, HANDLE))
        if stage == "joining":
            self.stitcher.push(2, (3,))
            self.mover.handle(LegTransferred(TARGET_LEG, 1, 0.0, 0.0, "shm"))

    def count(self, outcome: str) -> float:
        text = self.metrics.exposition().decode()
        name = f'baton_migrations_total{{outcome="{outcome}"}} '
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def test_the_target_is_told_what_was_said_while_it_read() -> None:
    scene = Scene()
    scene.to("joining")
    [share] = scene.source.sent
    assert share.share
    assert share.output_tokens == (1, 2)
    start, told = scene.target.sent
    assert (start.handle, start.waits, start.output_tokens) == (HANDLE, True, (1, 2))
    assert told == ContinueLeg(TARGET_LEG, 0, (1, 2, 3))
    assert scene.source.settled == {SHARE_LEG}
    assert scene.mover.take(7, 4) is None
    assert scene.mover.take(TARGET_LEG, 4) is scene.target
    assert scene.mover.num_moves == scene.count("moved") == 1
    scene.mover.close()
    assert CancelLeg(TARGET_LEG) not in scene.target.sent, "the leg is the answer's"


async def test_a_target_that_is_behind_is_told_what_it_missed_before_it_takes_over() -> None:
    scene = Scene()
    scene.to("joining")
    scene.stitcher.push(3, tuple(range(4, 10)))
    assert scene.mover.take(TARGET_LEG, 4) is None
    assert scene.target.sent[-1] == ContinueLeg(TARGET_LEG, 0, scene.stitcher.sent)
    assert scene.mover.take(TARGET_LEG, 5) is None
    assert scene.target.sent.count(scene.target.sent[-1]) == 1, "it was told once"
    assert scene.mover.take(TARGET_LEG, 10) is scene.target


async def test_a_target_that_never_catches_up_takes_over_after_some_rounds() -> None:
    scene = Scene()
    scene.to("joining")
    for number in range(1, 7):
        num_sent = scene.stitcher.num_sent
        scene.stitcher.push(num_sent, (7,) * 10)
        taken = scene.mover.take(TARGET_LEG, num_sent + 1)
        assert (taken is not None) == (number == 6)


@pytest.mark.parametrize("stage", ["sharing", "pulling", "joining"])
@pytest.mark.parametrize(
    "event",
    [
        LegFailed(TARGET_LEG, ErrorCode.WORKER_LOST, "gone"),
        LegFinished(TARGET_LEG, FinishReason.CANCELLED),
        LegFailed(SHARE_LEG, ErrorCode.TRANSFER_FAILED, "nothing is cached"),
    ],
    ids=["target lost", "target cancels", "source refuses"],
)
async def test_any_failure_leaves_the_answer_where_it_is(stage: str, event: Any) -> None:
    scene = Scene()
    scene.to(stage)
    scene.mover.handle(event)
    assert not scene.mover.owns(TARGET_LEG)
    assert scene.mover.take_over() is None
    assert CancelLeg(TARGET_LEG) in scene.target.sent
    assert not scene.target.reserved
    assert scene.count("kept") == 1
    scene.mover.close()


async def test_a_failed_transfer_leaves_the_answer_where_it_is() -> None:
    scene = Scene()
    scene.to("pulling")
    scene.mover.handle(LegTransferred(TARGET_LEG, 0, 0.0, 0.0, "tcp", "the link broke"))
    assert not any(isinstance(frame, ContinueLeg) for frame in scene.target.sent)
    assert scene.count("kept") == 1
    scene.mover.close()


@pytest.mark.parametrize("stage", ["pulling", "joining"])
async def test_a_source_that_is_lost_is_taken_over(stage: str) -> None:
    scene = Scene()
    scene.to(stage)
    assert scene.mover.take_over() == (scene.target, TARGET_LEG)
    assert scene.target.sent[-1] == ContinueLeg(TARGET_LEG, 0, scene.stitcher.sent)
    assert scene.count("taken_over") == 1


async def test_a_source_that_is_lost_before_it_shared_takes_the_migration_along() -> None:
    scene = Scene()
    scene.to("sharing")
    assert scene.mover.take_over() is None
    assert not scene.target.reserved


async def test_an_answer_that_is_nearly_over_stays() -> None:
    scene = Scene(max_tokens=10)
    scene.to("sharing")
    assert scene.source.sent == scene.target.sent == []


async def test_nobody_to_move_to_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.mover._RETRY_MIN_S", 0.01)
    scene = Scene(has_target=False)
    scene.to("sharing")
    async with asyncio.timeout(60):
        while scene.count("no_target") < 2:
            await asyncio.sleep(0.005)
    scene.mover.close()
    assert scene.source.sent == []


async def test_a_close_in_the_middle_ends_both_legs() -> None:
    scene = Scene()
    scene.to("pulling")
    scene.mover.close()
    scene.mover.close()
    assert scene.source.sent[-1] == CancelLeg(SHARE_LEG)
    assert scene.target.sent[-1] == CancelLeg(TARGET_LEG)


def candidate(worker_id: str, num_seqs: int, num_free: int, group: int = 0) -> Candidate:
    return Candidate(worker_id, 1, Role.DECODE, group, num_seqs, 0, num_free)


@pytest.mark.parametrize(
    ("pool", "num_free_blocks", "chosen"),
    [
        ((candidate("a", 0, 99), candidate("b", 5, 50)), 0, "b"),
        ((candidate("b", 5, 50), candidate("c", 4, 50)), 0, "c"),
        ((candidate("b", 5, 50), candidate("c", 4, 5)), 0, "b"),
        ((candidate("b", 5, 50), candidate("c", 4, 50, group=1)), 0, "b"),
        ((candidate("b", 5, 50),), 45, None),
        ((candidate("x", 0, 50), candidate("b", 5, 50)), 0, "b"),
        ((), 0, None),
    ],
    ids=["not itself", "least load", "room", "its group", "more room", "excluded", "nobody"],
)
def test_the_target_has_room_and_little_to_do(
    pool: tuple[Candidate, ...], num_free_blocks: int, chosen: str | None
) -> None:
    view = ClusterView((), pool)
    excluded = frozenset({("x", 1)})
    found = choose_target(view, "a", 0, 100, num_free_blocks, excluded)
    assert (found and found.worker_id) == chosen
