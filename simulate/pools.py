"""The cluster's workers: pools that change while the simulation runs, and what they cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from control_plane.pace import BEAT_TIMEOUT_S
from profiles.profile import Profile
from simulate.batch import WorkerLimits
from simulate.errors import SimulationError
from simulate.pool_costs import PoolCosts
from simulate.process import SimulatedProcess, World
from simulate.stream import SimulatedStream
from wire.cluster import Mode, PoolProgress, ServingMode, WorkerInfo
from wire.messages import Role, WorkerFrame

_REPORT_INTERVAL_S = 0.25  # worker/service.py sends its reports as often
_MAX_MEASURED = 128  # workers, all of whose ways from each other are listed


@dataclass(frozen=True, slots=True)
class PoolSample:
    """The pools from at_s on: workers that serve, those on their way, and all their GPUs."""

    at_s: float
    num_prefill: int
    num_decode: int
    num_starting: int
    num_gpus: int
    usd_per_hour: float


class Controller(Protocol):
    """Looks at the pools every period_s of virtual time, and changes them."""

    @property
    def period_s(self) -> float: ...

    def tick(self, now_s: float, pools: "SimulatedPools") -> None: ...


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a worker of some kind is made from. zone: where its links end."""

    profile: Profile
    zone: str = ""


@dataclass(slots=True)
class _Starting:
    role: Role
    hardware: Hardware
    epoch: int = 1


@dataclass(slots=True)
class SimulatedPools:
    """Starts, flips, drains and loses workers; tells the router who there is, as a registry does.

        add --load_s + start_s--> serving --flip--> flipping --> serving in the other role
        serving --remove--> draining --last leg ends--> gone
        serving --kill--> dead --beats time out--> unlisted --restart--> serving, a new epoch

    A worker that flips or drains finishes what it has; every worker can run both phases.
    """

    world: World
    hardware: dict[Role, Hardware]
    limits: Callable[[Role, Profile], WorkerLimits]
    costs: PoolCosts = field(default_factory=PoolCosts)
    samples: list[PoolSample] = field(default_factory=list)
    ended: list[SimulatedProcess] = field(default_factory=list)
    _numbers: dict[Role, "count[int]"] = field(
        default_factory=lambda: {role: count() for role in Role}
    )
    _starting: dict[str, _Starting] = field(default_factory=dict)
    _processes: dict[str, SimulatedProcess] = field(default_factory=dict)
    _listed: dict[str, SimulatedProcess] = field(default_factory=dict)
    mode: Mode = Mode.HYBRID
    _on_workers: Callable[[Sequence[WorkerInfo], Mode], None] = lambda workers, mode: None

    @property
    def workers(self) -> tuple[SimulatedProcess, ...]:
        """All that serve, flip or drain."""
        return tuple(process for process in self._processes.values() if process.is_reachable)

    @property
    def starting(self) -> tuple[tuple[str, Role], ...]:
        """Workers that load their weights."""
        return tuple((worker_id, one.role) for worker_id, one in self._starting.items())

    def size(self, role: Role) -> int:
        """Workers that take requests, or will when their flip is done."""
        return sum(one.role is role and not one.is_draining for one in self.workers)

    def find(self, address: str) -> SimulatedProcess | None:
        worker_id, _, epoch = address.rpartition("/")
        found = self._processes.get(worker_id)
        return found if found is not None and found.epoch == int(epoch) else None

    def worker(self, worker_id: str) -> SimulatedProcess:
        """One that serves. Raises SimulationError for any other."""
        found = self._processes.get(worker_id)
        if found is None or not found.is_reachable or found.is_draining:
            raise SimulationError(f"{worker_id} does not serve")
        return found

    def is_well(self, worker_id: str) -> bool:
        """It serves, and its link is whole."""
        found = self._processes.get(worker_id)
        serves = found is not None and found.is_reachable and not found.is_frozen
        return serves and worker_id not in self.world.links.factors

    def subscribe(self, on_workers: Callable[[Sequence[WorkerInfo], Mode], None]) -> None:
        """on_workers gets the list of all workers, and the mode, now and at each change."""
        self._on_workers = on_workers
        self._list()

    # --- changes -------------------------------------------------------------------------------

    def found(self, role: Role, number: int, hardware: Hardware | None = None) -> None:
        """Workers that are there when the simulation begins."""
        for _ in range(number):
            self._create(self._name(role), _Starting(role, hardware or self.hardware[role]))
        self._list()
        self._sample()

    def add(self, role: Role, number: int = 1, profile: Profile | None = None) -> tuple[str, ...]:
        """Starts workers, by default on the pool's hardware; they cost from this moment on."""
        hardware = Hardware(profile) if profile is not None else self.hardware[role]
        names = tuple(self._name(role) for _ in range(number))
        for name in names:
            self._start(name, _Starting(role, hardware))
        self._sample()
        return names

    def flip(self, worker_id: str, to_role: Role) -> None:
        """The worker takes the other role in place; it keeps its weights and its cache.

        Raises SimulationError for a worker that does not serve.
        """
        process = self.worker(worker_id)
        if process.role is to_role:
            return
        process.is_flipping = True
        process.engine.take_role(to_role, self.limits(to_role, process.profile))
        process.send_report()
        self.world.loop.after(self.costs.flip_s(to_role), self._flipped, process)
        self._sample()

    def serve_in(self, mode: Mode) -> None:
        """What the control plane tells gateways."""
        if mode is not self.mode:
            self.mode = mode
            self._list()

    def remove(self, worker_id: str) -> None:
        """The worker takes no new legs and ends after its last. Raises SimulationError."""
        if self._starting.pop(worker_id, None) is not None:
            self._sample()
            return
        process = self.worker(worker_id)
        process.is_draining = True
        process.send_report()
        self._list()
        self._sample()

    def kill(self, worker_id: str, restarts: bool = True) -> None:
        """The process dies at once. Raises SimulationError for a worker that does not serve."""
        process = self.worker(worker_id)
        process.die()
        self.ended.append(process)
        self.world.loop.after(BEAT_TIMEOUT_S, self._unlist, process)
        if restarts:
            hardware = Hardware(process.profile, self.world.links.zones.get(worker_id, ""))
            self._start(worker_id, _Starting(process.role, hardware, process.epoch + 1))
        self._sample()

    def freeze(self, worker_id: str, seconds: float) -> None:
        """The process stands still for that long. Raises SimulationError."""
        self.worker(worker_id).freeze(seconds)

    def slow(self, worker_id: str, factor: float) -> None:
        """What is left of the worker's bandwidth for pulls that begin from now on; 0: none."""
        self.world.links.factors[self.worker(worker_id).worker_id] = factor

    # --- the account ---------------------------------------------------------------------------

    def gpu_s(self, until_s: float) -> float:
        """GPUs times the seconds that they were held."""
        return self._integral(until_s, [float(sample.num_gpus) for sample in self.samples])

    def usd(self, until_s: float) -> float:
        return self._integral(until_s, [sample.usd_per_hour / 3600 for sample in self.samples])

    def report_until(self, is_over: Callable[[], bool]) -> None:
        """Every worker's report, now and every 250 ms. Workers that have drained end."""
        frames = [sent for process in self.workers for sent in process.reports()]
        self.world.loop.after(self.world.overheads.hop_s, _deliver, frames)
        for process in self.workers:
            if process.is_draining and process.engine.is_quiet:
                self._end(process)
        if not is_over():
            self.world.loop.after(_REPORT_INTERVAL_S, self.report_until, is_over)

    def _integral(self, until_s: float, values: list[float]) -> float:
        ends_s = [*(sample.at_s for sample in self.samples[1:]), until_s]
        spans = zip(self.samples, ends_s, values, strict=True)
        return sum(
            max(0.0, min(end_s, until_s) - sample.at_s) * value for sample, end_s, value in spans
        )

    # --- steps ---------------------------------------------------------------------------------

    def _name(self, role: Role) -> str:
        return f"{role.value}-{next(self._numbers[role])}"

    def _start(self, name: str, starting: _Starting) -> None:
        self._starting[name] = starting
        delay_s = starting.hardware.profile.load_s + self.costs.start_s
        self.world.loop.after(delay_s, self._started, name, starting)

    def _started(self, name: str, starting: _Starting) -> None:
        if self._starting.get(name) is starting:
            del self._starting[name]
            self._join(name, starting)
            self._sample()

    def _join(self, name: str, starting: _Starting) -> None:
        self._create(name, starting)
        self._list()

    def _create(self, name: str, starting: _Starting) -> None:
        profile, role = starting.hardware.profile, starting.role
        self.world.links.zones[name] = starting.hardware.zone
        process = SimulatedProcess(
            name, starting.epoch, role, profile, self.limits(role, profile), self.world
        )
        self._processes[name] = self._listed[name] = process

    def _flipped(self, process: SimulatedProcess) -> None:
        process.is_flipping = False
        process.send_report()
        self._list()

    def _end(self, process: SimulatedProcess) -> None:
        del self._processes[process.worker_id]
        process.is_reachable = False
        self.ended.append(process)
        self._unlist(process)
        self._sample()

    def _unlist(self, process: SimulatedProcess) -> None:
        if self._listed.get(process.worker_id) is process:
            del self._listed[process.worker_id]
            self._list()

    def _list(self) -> None:
        sources = tuple(self._listed) if len(self._listed) <= _MAX_MEASURED else ()
        infos = [process.info(sources) for process in self._listed.values()]
        self._on_workers(infos, self.mode)

    def _sample(self) -> None:
        profiles = [process.profile for process in self.workers]
        profiles += [one.hardware.profile for one in self._starting.values()]
        sample = PoolSample(
            self.world.loop.now(),
            self.size(Role.PREFILL),
            self.size(Role.DECODE),
            len(self._starting),
            sum(profile.num_gpus for profile in profiles),
            sum(profile.usd_per_hour for profile in profiles),
        )
        if self.samples and self.samples[-1].at_s == sample.at_s:
            self.samples.pop()
        self.samples.append(sample)


class SimulatedWatch:
    """What router.watch is to a live registry: a word at each change of the pools."""

    is_connected = True
    pools: tuple[PoolProgress, ...] = ()

    @property
    def serving(self) -> ServingMode:
        return ServingMode(self._pools.mode)

    def __init__(
        self, pools: SimulatedPools, on_workers: Callable[[Sequence[WorkerInfo], Mode], None]
    ) -> None:
        self._pools = pools
        self._on_workers = on_workers

    def start(self) -> None:
        self._pools.subscribe(self._on_workers)

    async def stop(self) -> None:
        self._pools.subscribe(lambda workers, mode: None)


def _deliver(frames: Sequence[tuple[SimulatedStream, int, WorkerFrame]]) -> None:
    for stream, number, frame in frames:
        stream.arrive(number, frame)
