"""Watchers hear how far the pools are while requests may wait for a worker."""

from collections.abc import Callable

from control_plane.actuators.actuator import PoolStatus
from control_plane.actuators.advisory import AdvisoryActuator
from control_plane.leadership import SoleLeadership, Term
from control_plane.progress import ProgressTeller
from control_plane.registry import Registry
from runtime.clock import SystemClock
from runtime.metrics import CONTROL_METRICS, Metrics
from wire.cluster import PoolProgress, WorkerBeat
from wire.messages import Role

BeatOf = Callable[..., WorkerBeat]


class Platform(AdvisoryActuator):
    """Says of both pools what a test sets, and counts who asks."""

    def __init__(self) -> None:
        super().__init__(Metrics(CONTROL_METRICS))
        self.decode = PoolStatus(Role.DECODE, wanted=0, running=0)
        self.num_asked = 0

    async def status(self) -> tuple[PoolStatus, ...]:
        self.num_asked += 1
        return PoolStatus(Role.PREFILL, wanted=0, running=0), self.decode


class Follower(SoleLeadership):
    def term(self) -> Term:
        return Term("somebody", False, 1, other="somebody")


async def test_an_empty_pool_that_fills_is_told_and_taken_back_once_it_serves(beat_of: BeatOf):
    registry, platform = Registry(SystemClock()), Platform()
    teller = ProgressTeller(registry, platform, SoleLeadership())
    await teller.look()
    assert registry.snapshot.pools == () and registry.version == 0

    platform.decode = PoolStatus(Role.DECODE, wanted=2, running=0, starting=2)
    await teller.look()
    await teller.look()  # no news
    told = PoolProgress(Role.DECODE, wanted=2, running=0, starting=2)
    assert registry.snapshot.pools == (PoolProgress(Role.PREFILL, 0, 0), told)
    assert registry.version == 1

    registry.beat(beat_of("decode-0"))
    registry.beat(beat_of("decode-1"))
    platform.decode = PoolStatus(Role.DECODE, wanted=2, running=2)
    await teller.look()
    assert registry.snapshot.pools == ()
    registry.check_integrity()


async def test_with_workers_of_both_roles_and_none_starting_nobody_asks_the_platform(
    beat_of: BeatOf,
):
    registry, platform = Registry(SystemClock()), Platform()
    registry.beat(beat_of("decode-0"))
    registry.beat(beat_of("prefill-0", role=Role.PREFILL))
    await ProgressTeller(registry, platform, SoleLeadership()).look()
    assert platform.num_asked == 0


async def test_a_control_plane_that_does_not_lead_tells_nothing():
    platform = Platform()
    await ProgressTeller(Registry(SystemClock()), platform, Follower()).look()
    assert platform.num_asked == 0
