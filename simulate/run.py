"""One simulation from its specification and workload to the record of every request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from loadtest.plan import Workload
from loadtest.record import RequestRecord
from profiles.profile import Profile
from router.config import RouterConfig
from router.placer import Placer
from router.policies.named import policy_named
from router.policies.policy import PairPolicy
from simulate.arrivals import Turns
from simulate.batch import WorkerLimits
from simulate.cluster import SimulatedCluster
from simulate.event_loop import EventLoop
from simulate.gateway import Arrival, SimulatedGateway
from simulate.pools import Controller, PoolSample, SimulatedPools
from simulate.prefixes import UnitPrefixMap
from simulate.spec import ClusterSpec
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role


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


class Simulation:
    """Owns the loop and all that lives in it; runs once."""

    def __init__(
        self,
        spec: ClusterSpec,
        workload: Workload,
        on_progress: Callable[[int], None],
        controllers: Sequence[Controller] = (),
    ) -> None:
        self._controllers = controllers
        self._spec = spec
        self._workload = workload
        self._on_progress = on_progress
        self._records: list[RequestRecord] = []
        self._turns: dict[int, Turns] = {}  # of the conversations that have begun and go on
        self._num_to_come = len(workload.conversations)
        self._loop = EventLoop()
        config = RouterConfig(
            control_address="",
            client_id=f"simulation-{spec.seed}",
            policy=spec.policy,
            local_prefill_max_tokens=spec.local_prefill_max_tokens,
        )
        if spec.ttft_slo_ms:
            config = replace(config, ttft_slo_ms=spec.ttft_slo_ms, ttft_slo_token_ms=0.0)
        if spec.tpot_slo_ms:
            config = replace(config, tpot_slo_ms=spec.tpot_slo_ms)
        unit_blocks = spec.unit_tokens // BLOCK_SIZE
        prefix_map = UnitPrefixMap(config.max_prefix_blocks, unit_blocks)
        predicts = isinstance(policy_named(spec.policy), PairPolicy)
        self._cluster = SimulatedCluster(self._loop, prefix_map, predicts)
        placer = Placer(config, self._cluster, prefix_map, self._loop, Random(config.client_id))
        self._gateway = SimulatedGateway(
            self._loop, placer, self._cluster, spec.overheads, self._ended, spec.max_tokens
        )
        self._prefix_map = prefix_map
        profiles = {Role.PREFILL: spec.prefill_profile, Role.DECODE: spec.decode_profile}
        self._pools = SimulatedPools(
            self._loop, self._cluster, self._gateway, profiles, self._limits, spec.pool_costs
        )
        self._pools.found(Role.PREFILL, spec.num_prefill)
        self._pools.found(Role.DECODE, spec.num_decode)

    def run(self) -> Outcome:
        """Until every request has ended."""
        self._loop.at(self._workload.conversations[0].at_s, self._begin, 0)
        self._cluster.report_until(self._is_over)
        for controller in self._controllers:
            self._loop.after(controller.period_s, self._tick, controller)
        self._loop.run(lambda: self._on_progress(len(self._records)))
        self._on_progress(len(self._records))
        workers = [*(s.worker for s in self._cluster.all()), *self._pools.ended]
        end_s = self._loop.now()
        return Outcome(
            records=tuple(self._records),
            num_events=self._loop.num_events,
            num_preemptions=sum(worker.num_preemptions for worker in workers),
            end_s=end_s,
            busy={worker.worker_id: worker.busy_s / end_s for worker in workers},
            pools=tuple(self._pools.samples),
            gpu_s=self._pools.gpu_s(end_s),
            usd=self._pools.usd(end_s),
        )

    def check_integrity(self) -> None:
        """After a run: nothing is held, and every book agrees. Raises AssertionError."""
        self._prefix_map.check_integrity()
        for session in self._cluster.all():
            assert session.worker.is_quiet, f"{session.worker.worker_id} still has work"
            session.worker.check_integrity()
            session.load.check_integrity()

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
        turns = self._turns[index] = Turns(conversations[index], index, self._spec.unit_tokens)
        self._gateway.arrive(turns.first())

    def _ended(self, arrival: Arrival, record: RequestRecord) -> None:
        self._records.append(record)
        following = self._turns[arrival.conversation].after(record.end_s)
        if following is None:
            del self._turns[arrival.conversation]
        else:
            self._num_to_come += 1
            self._loop.at(following.at_s, self._continue, following)

    def _continue(self, arrival: Arrival) -> None:
        self._num_to_come -= 1
        self._gateway.arrive(arrival)

    def _tick(self, controller: Controller) -> None:
        if not self._is_over():
            controller.tick(self._loop.now(), self._pools)
            self._loop.after(controller.period_s, self._tick, controller)

    def _is_over(self) -> bool:
        return self._num_to_come == 0 and self._gateway.num_under_way == 0


def simulate(
    spec: ClusterSpec,
    workload: Workload,
    on_progress: Callable[[int], None] = lambda num_ended: None,
    controllers: Sequence[Controller] = (),
) -> Outcome:
    """The same specification and workload give the same outcome, to the bit.

    controllers: change the pools as it runs; none of them is asked after the last request.

    A request that is too long for a worker is refused, and counts as an error.
    """
    simulation = Simulation(spec, workload, on_progress, controllers)
    outcome = simulation.run()
    simulation.check_integrity()
    return outcome
