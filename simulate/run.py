"""One simulation from its specification and workload to the record of every request."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from loadtest.faults import Injected
from loadtest.plan import Workload
from loadtest.record import RequestRecord
from profiles.profile import Profile
from router.config import RouterConfig
from router.event_pause import event_pause_s
from router.outlook import WorkerForecast
from router.parts import Parts
from router.predictor import StepPredictor
from router.router import Router
from router.stream import StreamOwner
from runtime.lifecycle import collecting_rarely
from runtime.metrics import Metrics
from simulate.arrivals import Turns
from simulate.batch import WorkerLimits
from simulate.event_loop import EventLoop
from simulate.faults import FaultPlan
from simulate.gateway import Arrival, SimulatedGateway
from simulate.leg_book import LegBook
from simulate.links import Links
from simulate.pools import Controller, Hardware, PoolSample, SimulatedPools, SimulatedWatch
from simulate.prefixes import UnitPrefixMap
from simulate.process import SimulatedProcess, World
from simulate.silence import BlindForecast, SilentMetrics
from simulate.spec import ClusterSpec
from simulate.stream import SimulatedStream
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role

_SETTLE_S = 0.05
_SETTLE_LOOKS = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulation gave. busy: share of the run that each worker's engine was in a step.

    pools: their sizes from each change on. gpu_s: GPUs times seconds, those of starting workers
    included; usd: at the profiles' prices.
    """

    records: tuple[RequestRecord, ...]
    num_events: int
    num_preemptions: int
    end_s: float
    busy: dict[str, float]
    pools: tuple[PoolSample, ...] = ()
    gpu_s: float = 0.0
    usd: float = 0.0
    faults: tuple[Injected, ...] = ()


class Simulation:
    """Owns the loop and all that lives in it; runs once."""

    def __init__(
        self,
        spec: ClusterSpec,
        workload: Workload,
        on_progress: Callable[[int], None],
        controllers: Sequence[Controller] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._spec = spec
        self._workload = workload
        self._on_progress = on_progress
        self._controllers = controllers
        self._records: list[RequestRecord] = []
        self._turns: dict[int, Turns] = {}  # of the conversations that have begun and go on
        self._num_to_come = len(workload.conversations)
        self._over_s: float | None = None
        self._loop = EventLoop()  # type: ignore[abstract]  # it has no sockets
        legs = LegBook()
        world = World(self._loop, legs, Links(spec.links), spec.overheads, spec.seed)
        hardware = {
            Role.PREFILL: Hardware(spec.prefill_profile),
            Role.DECODE: Hardware(spec.decode_profile),
        }
        self._pools = SimulatedPools(world, hardware, self._limits, spec.pool_costs, mode=spec.mode)
        for pool in spec.founded:
            self._pools.found(pool.role, pool.count, Hardware(pool.profile, pool.zone))
        drawn = spec.random_faults.plan(spec.num_workers, workload.duration_s, spec.seed)
        self._faults = FaultPlan(
            (*spec.faults, *drawn),
            self._loop,
            self._pools,
            Random(f"victims-{spec.seed}"),
            self._is_over,
        )
        self._router = router_of(spec, self._pools, self._loop, metrics)
        self._gateway = SimulatedGateway(
            self._loop,
            self._router,
            legs,
            spec.overheads,
            self._ended,
            spec.max_tokens,
            lambda: event_pause_s(spec.overheads.coalesce_s, self._router.num_under_way),
        )

    def run(self) -> Outcome:
        """Until every request has ended."""
        self._loop.create_task(self._router.start())
        self._loop.call_soon(self._begin_all)
        self._loop.run(lambda: self._on_progress(len(self._records)))
        self._on_progress(len(self._records))
        workers = {*self._pools.workers, *self._pools.ended}
        end_s = self._loop.now() if self._over_s is None else self._over_s
        return Outcome(
            records=tuple(self._records),
            num_events=self._loop.num_events,
            num_preemptions=sum(worker.engine.num_preemptions for worker in workers),
            end_s=end_s,
            busy=_busy(workers, end_s),
            pools=tuple(self._pools.samples),
            gpu_s=self._pools.gpu_s(end_s),
            usd=self._pools.usd(end_s),
            faults=tuple(self._faults.injected),
        )

    def check_integrity(self) -> None:
        """After a run: nothing is held, and every book agrees. Raises AssertionError."""
        self._router.check_integrity()
        for worker in self._pools.workers:
            assert worker.engine.is_quiet, f"{worker.worker_id} still has work"
            worker.engine.check_integrity()

    def _begin_all(self) -> None:
        self._loop.at(self._workload.conversations[0].at_s, self._begin, 0)
        self._pools.report_until(self._is_over)
        self._faults.begin()
        for controller in self._controllers:
            self._loop.after(controller.period_s, self._tick, controller)

    def _limits(self, role: Role, profile: Profile) -> WorkerLimits:
        spec = self._spec
        if role is Role.PREFILL:
            tokens = spec.prefill_batch_tokens or profile.prefill_batch_tokens
        else:
            tokens = spec.decode_batch_tokens or profile.decode_batch_tokens
        return WorkerLimits(
            tokens,
            spec.max_num_seqs or profile.max_num_seqs,
            spec.unit_tokens,
            spec.overheads.pull_s,
        )

    def _begin(self, index: int) -> None:
        """One conversation at a time is on the agenda: a workload is sorted by start."""
        conversations = self._workload.conversations
        if index + 1 < len(conversations):
            self._loop.at(conversations[index + 1].at_s, self._begin, index + 1)
        self._num_to_come -= 1
        turns = self._turns[index] = Turns(
            conversations[index], index, self._spec.unit_tokens, self._spec.classes
        )
        self._gateway.arrive(turns.first())

    def _ended(self, arrival: Arrival, record: RequestRecord) -> None:
        self._records.append(record)
        following = self._turns[arrival.conversation].after(record.end_s)
        if following is None:
            del self._turns[arrival.conversation]
        else:
            self._num_to_come += 1
            self._loop.at(following.at_s, self._continue, following)
        if self._over_s is None and self._is_over():
            self._over_s = self._loop.now()
            self._loop.create_task(self._shut_down())

    async def _shut_down(self) -> None:
        """What the last requests left behind on the workers is cleared; then the router leaves."""
        for _ in range(_SETTLE_LOOKS):
            await asyncio.sleep(_SETTLE_S)
            if all(worker.engine.is_quiet for worker in self._pools.workers):
                break
        await self._router.stop()

    def _continue(self, arrival: Arrival) -> None:
        self._num_to_come -= 1
        self._gateway.arrive(arrival)

    def _tick(self, controller: Controller) -> None:
        if not self._is_over():
            controller.tick(self._loop.now(), self._pools)
            self._loop.after(controller.period_s, self._tick, controller)

    def _is_over(self) -> bool:
        return self._num_to_come == 0 and self._gateway.num_under_way == 0


def router_of(
    spec: ClusterSpec, pools: SimulatedPools, loop: EventLoop, metrics: Metrics | None = None
) -> Router:
    """The live router, at whose edges simulated workers stand."""
    config = RouterConfig(
        control_address="",
        client_id=f"simulation-{spec.seed}",
        policy=spec.policy,
        profile=spec.router_profile,
        local_prefill_max_tokens=spec.local_prefill_max_tokens,
        max_under_way=spec.max_under_way,
        max_queued=spec.max_queued,
        reject_ratio=spec.reject_ratio,
        hedge=spec.hedge,
        max_traces=16,
        recording=spec.recording,
    )
    if spec.ttft_slo_ms:
        config = replace(config, ttft_slo_ms=spec.ttft_slo_ms, ttft_slo_token_ms=0.0)
    if spec.tpot_slo_ms:
        config = replace(config, tpot_slo_ms=spec.tpot_slo_ms)
    hop_s, unit_blocks = spec.overheads.hop_s, spec.unit_tokens // BLOCK_SIZE

    def open_stream(address: str, config: RouterConfig, owner: StreamOwner) -> SimulatedStream:
        return SimulatedStream(address, config, owner, loop, hop_s, pools.find)

    def new_forecast(pool: StepPredictor | None) -> WorkerForecast:
        return WorkerForecast(pool=pool) if spec.learns else BlindForecast()

    parts = Parts(
        open_stream,
        new_forecast,
        lambda max_blocks: UnitPrefixMap(max_blocks, unit_blocks),
        lambda _, on_workers: SimulatedWatch(pools, on_workers),
    )
    return Router(config, loop, metrics or SilentMetrics(), parts)


def _busy(workers: Iterable[SimulatedProcess], end_s: float) -> dict[str, float]:
    """By worker, all its processes together."""
    busy_s: dict[str, float] = {}
    roles = list(Role)
    for worker in sorted(workers, key=lambda one: (roles.index(one.role), one.address)):
        busy_s[worker.worker_id] = busy_s.get(worker.worker_id, 0.0) + worker.engine.busy_s
    return {worker_id: seconds / end_s for worker_id, seconds in busy_s.items()}


def simulate(
    spec: ClusterSpec,
    workload: Workload,
    on_progress: Callable[[int], None] = lambda num_ended: None,
    controllers: Sequence[Controller] = (),
    metrics: Metrics | None = None,
) -> Outcome:
    """The same specification and workload give the same outcome, to the bit.

    controllers: change the pools as it runs; none of them is asked after the last request.
    metrics: what the router exports, for those who look at it as the run goes on.

    A request that is too long for a worker is refused, and counts as an error.
    """
    simulation = Simulation(spec, workload, on_progress, controllers, metrics)
    with collecting_rarely():
        outcome = simulation.run()
    simulation.check_integrity()
    return outcome
