"""Liveness under a virtual clock."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control_plane.pace import BEAT_TIMEOUT_S, Pace
from control_plane.registry import Registry
from runtime.clock import VirtualClock
from wire.cluster import Fingerprint, WorkerBeat, WorkerInfo
from wire.kv import FabricAddress
from wire.messages import Role, WorkerReport

BeatOf = Callable[..., WorkerBeat]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(100.0)


@pytest.fixture
def registry(clock: VirtualClock):
    registry = Registry(clock)
    yield registry
    registry.check_integrity()


def test_a_beat_registers_a_worker_and_carries_its_report(registry, clock, beat_of: BeatOf):
    assert registry.beat(beat_of())
    clock.advance(1.5)
    (status,) = registry.status()
    assert status.info == beat_of().info
    assert status.report.num_running == 3
    assert status.beat_age_s == 1.5


def test_a_worker_lives_exactly_as_long_as_its_beats(registry, clock, beat_of: BeatOf):
    registry.beat(beat_of("a"))
    registry.beat(beat_of("b"))
    for _ in range(10):
        clock.advance(BEAT_TIMEOUT_S / 2)
        registry.beat(beat_of("b"))
        registry.expire()
    assert [worker.worker_id for worker in registry.snapshot.workers] == ["b"]


def test_expiry_waits_for_the_whole_timeout(registry, clock, beat_of: BeatOf):
    registry.beat(beat_of())
    clock.advance(BEAT_TIMEOUT_S)
    assert registry.expire() == ()
    clock.advance(0.001)
    assert [info.worker_id for info in registry.expire()] == ["decode-0"]
    assert registry.snapshot.workers == ()


def test_the_more_workers_there_are_the_rarer_they_beat_and_the_longer_each_may_be_silent(
    clock, beat_of: BeatOf
):
    registry = Registry(clock, Pace(beats_per_s=0.5))
    registry.beat(beat_of("a"))
    assert registry.interval_s == 2.0
    registry.beat(beat_of("b"))
    registry.beat(beat_of("c"))
    assert registry.interval_s == 6.0
    clock.advance(BEAT_TIMEOUT_S + 2)
    assert registry.expire() == ()
    clock.advance(0.1)  # it was told 2 s when it was alone
    assert [info.worker_id for info in registry.expire()] == ["a"]
    registry.check_integrity()


def test_a_small_cluster_beats_at_its_own_second(registry, beat_of: BeatOf):
    for number in range(150):
        registry.beat(beat_of(f"decode-{number}"))
    assert (registry.wait_s("decode-0"), registry.interval_s) == (0.0, 1.0)
    registry.beat(beat_of("decode-150"))
    assert registry.interval_s > 1.0


@given(st.integers(0, 5000), st.text(max_size=12), st.floats(0, 1e7))
def test_a_worker_beats_in_its_own_slot_once_an_interval(
    num_workers: int, worker_id: str, now_s: float
) -> None:
    pace = Pace()
    interval_s, told_s = pace.interval_s(num_workers), pace.told_s(num_workers, worker_id, now_s)
    if num_workers <= 150:
        assert told_s == 0.0
        return
    assert 0.249 < told_s < min(13.76, interval_s + 0.26)
    again_s = pace.told_s(num_workers, worker_id, now_s + told_s + 0.01)  # the way to it
    assert again_s == pytest.approx(interval_s - 0.01, abs=1e-6)


def test_the_beats_of_a_large_cluster_come_many_at_a_time_and_as_many_in_every_slot():
    due = Counter(round(Pace().told_s(2000, f"decode-{number}", 0.25), 3) for number in range(2000))
    assert len(due) == 27, "slots of half a second in 13.5 s"
    assert max(due.values()) < 2 * 2000 / 27


def test_a_worker_whose_stream_broke_has_the_base_timeout_whatever_the_pace(clock, beat_of: BeatOf):
    registry, old, new = Registry(clock, Pace(beats_per_s=0.25)), object(), object()
    for stream in (old, new):
        registry.beat(beat_of("moves"), stream)
        registry.beat(beat_of("dies"), stream)
    for worker_id in ("moves", "dies"):  # the stream before was left: nothing was lost with it
        registry.disconnected(worker_id, old)
    clock.advance(3.0)
    registry.disconnected("dies", new)
    clock.advance(BEAT_TIMEOUT_S)
    assert registry.expire() == ()
    clock.advance(0.1)
    assert [info.worker_id for info in registry.expire()] == ["dies"]
    registry.check_integrity()


def test_a_new_epoch_replaces_the_old_one_and_the_old_ones_late_beat_is_refused(
    registry, beat_of: BeatOf
):
    registry.beat(beat_of(epoch=1))
    assert registry.beat(beat_of(epoch=2, address="127.0.0.1:7009"))
    assert not registry.beat(beat_of(epoch=1))
    (worker,) = registry.snapshot.workers
    assert (worker.epoch, worker.address) == (2, "127.0.0.1:7009")


@pytest.mark.parametrize("leave", ["goodbye", "silence", "death"])
def test_a_departed_epoch_may_come_back_but_an_older_one_may_not(
    registry, clock, beat_of: BeatOf, leave: str
):
    registry.beat(beat_of(epoch=5))
    if leave == "goodbye":
        assert registry.remove("decode-0", 5)
    elif leave == "death":
        assert registry.remove_process("decode-0", 4242)
    else:
        clock.advance(BEAT_TIMEOUT_S + 1)
        registry.expire()
    assert not registry.beat(beat_of(epoch=4))
    assert registry.beat(beat_of(epoch=5))


def test_goodbyes_of_another_epoch_or_process_change_nothing(registry, beat_of: BeatOf):
    registry.beat(beat_of(epoch=2, pid=77))
    before = registry.snapshot
    assert not registry.remove("decode-0", 1)
    assert not registry.remove("nobody", 2)
    assert not registry.remove_process("decode-0", 78)
    assert registry.snapshot is before


def test_only_a_change_of_the_cluster_makes_a_new_version(registry, clock, beat_of: BeatOf):
    registry.beat(beat_of())
    first = registry.snapshot
    clock.advance(1)
    registry.beat(beat_of())
    registry.expire()
    assert registry.snapshot is first
    registry.beat(beat_of(draining=True))
    assert registry.snapshot.version == first.version + 1
    assert registry.snapshot.workers[0].draining


def test_a_pause_of_the_registry_itself_is_not_held_against_the_workers(
    registry, clock, beat_of: BeatOf
):
    registry.beat(beat_of())
    clock.advance(60)
    registry.excuse(60)
    assert registry.expire() == ()


async def test_every_watcher_is_woken_by_a_change(registry, beat_of: BeatOf):
    waiting = [asyncio.create_task(registry.after(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    registry.beat(beat_of())
    snapshots = await asyncio.gather(*waiting)
    assert all(snapshot is registry.snapshot for snapshot in snapshots)


async def test_a_watcher_that_fell_behind_sees_the_latest_snapshot_at_once(
    registry, beat_of: BeatOf
):
    registry.beat(beat_of("a"))
    registry.beat(beat_of("b"))
    assert (await registry.after(1)).version == 2


class RegistryAgainstAModel(RuleBasedStateMachine):
    """The registry equals a dictionary of worker_id -> (epoch, last beat) that is kept by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.registry = Registry(self.clock)
        self.live: dict[str, tuple[int, float]] = {}
        self.highest: dict[str, int] = {}
        self.version = 0

    ids = st.sampled_from("abc")
    epochs = st.integers(1, 4)

    @rule(worker_id=ids, epoch=epochs)
    def beat(self, worker_id: str, epoch: int) -> None:
        info = WorkerInfo(
            worker_id,
            epoch,
            Role.PREFILL,
            "127.0.0.1:1",
            FabricAddress("127.0.0.1", 2),
            Fingerprint("m", "r", "float32", 16, "x"),
            64,
            4,
            pid=epoch,
        )
        applied = self.registry.beat(WorkerBeat(info, WorkerReport(Role.PREFILL)))
        assert applied == (epoch >= self.highest.get(worker_id, 0))
        if applied:
            self.highest[worker_id] = epoch
            self.live[worker_id] = (epoch, self.clock.now())

    @rule(worker_id=ids, epoch=epochs)
    def goodbye(self, worker_id: str, epoch: int) -> None:
        expected = self.live.get(worker_id, (0, 0.0))[0] == epoch
        assert self.registry.remove(worker_id, epoch) == expected
        if expected:
            del self.live[worker_id]

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.registry.expire()
        now_s = self.clock.now()
        self.live = {
            worker_id: (epoch, at_s)
            for worker_id, (epoch, at_s) in self.live.items()
            if now_s - at_s <= BEAT_TIMEOUT_S
        }

    @invariant()
    def agrees(self) -> None:
        self.registry.check_integrity()
        shown = {worker.worker_id: worker.epoch for worker in self.registry.snapshot.workers}
        assert shown == {worker_id: epoch for worker_id, (epoch, _) in self.live.items()}
        assert self.registry.snapshot.version >= self.version
        self.version = self.registry.snapshot.version


RegistryAgainstAModel.TestCase.settings = settings(max_examples=60)
TestRegistryAgainstAModel = RegistryAgainstAModel.TestCase
