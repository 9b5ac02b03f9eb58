"""Pools that change while the simulation runs: roles flip, workers come and go."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from profiles.profile import Profile
from simulate.batch import WorkerLimits
from simulate.cluster import SimulatedCluster, SimulatedSession
from simulate.errors import SimulationError
from simulate.event_loop import EventLoop
from simulate.pool_costs import PoolCosts
from simulate.worker import ModelledWorker, WorkerListener
from wire.messages import Role


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


class SimulatedPools:
    """Adds, flips and removes workers; keeps how many there were, and what they cost.

        add --load_s + start_s--> serving --flip--> flipping --> serving in the other role
        serving --remove--> draining --last leg ends--> gone

    A worker that flips or drains finishes what it has; every worker can run both phases.
    """

    def __init__(
        self,
        loop: EventLoop,
        cluster: SimulatedCluster,
        listener: WorkerListener,
        profiles: dict[Role, Profile],
        limits: Callable[[Role, Profile], WorkerLimits],
        costs: PoolCosts = PoolCosts(),
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self._listener = listener
        self._profiles = profiles
        self._limits = limits
        self._costs = costs
        self._numbers = {role: count() for role in Role}
        self._starting: dict[str, tuple[Role, Profile]] = {}
        self._ended: list[ModelledWorker] = []
        self.samples: list[PoolSample] = []

    @property
    def workers(self) -> tuple[SimulatedSession, ...]:
        """All that serve, flip or drain."""
        return self._cluster.all()

    @property
    def ended(self) -> tuple[ModelledWorker, ...]:
        return tuple(self._ended)

    @property
    def starting(self) -> tuple[tuple[str, Role], ...]:
        """Workers that load their weights."""
        return tuple((worker_id, role) for worker_id, (role, _) in self._starting.items())

    def size(self, role: Role) -> int:
        """Workers that take requests, or will when their flip is done."""
        return sum(s.worker.role is role and not s.is_draining for s in self._cluster.all())

    def found(self, role: Role, number: int) -> None:
        """Workers that are there when the simulation begins."""
        for _ in range(number):
            self._join(self._name(role), role, self._profiles[role])
        self._sample()

    def add(self, role: Role, number: int = 1, profile: Profile | None = None) -> tuple[str, ...]:
        """Starts workers, by default on the pool's hardware; they cost from this moment on."""
        profile = profile or self._profiles[role]
        names = tuple(self._name(role) for _ in range(number))
        for name in names:
            self._starting[name] = (role, profile)
            self._loop.after(profile.load_s + self._costs.start_s, self._started, name)
        self._sample()
        return names

    def flip(self, worker_id: str, to_role: Role) -> None:
        """The worker takes the other role in place; it keeps its weights and its cache.

        Raises SimulationError for a worker that does not serve.
        """
        session = self._serving(worker_id)
        if session.worker.role is to_role:
            return
        session.pause()
        worker = session.worker
        worker.take_role(to_role, self._limits(to_role, worker.profile))
        self._loop.after(self._costs.flip_s(to_role), session.resume)
        self._sample()

    def remove(self, worker_id: str) -> None:
        """The worker takes no new legs and ends after its last. Raises SimulationError."""
        if self._starting.pop(worker_id, None) is not None:
            self._sample()
            return
        session = self._serving(worker_id)
        session.drain()
        self._sample()
        self._end_if_idle(session)

    def gpu_s(self, until_s: float) -> float:
        """GPUs times the seconds that they were held."""
        return self._integral(until_s, [float(sample.num_gpus) for sample in self.samples])

    def usd(self, until_s: float) -> float:
        return self._integral(until_s, [sample.usd_per_hour / 3600 for sample in self.samples])

    def _integral(self, until_s: float, values: list[float]) -> float:
        ends_s = [*(sample.at_s for sample in self.samples[1:]), until_s]
        spans = zip(self.samples, ends_s, values, strict=True)
        return sum(max(0.0, end_s - sample.at_s) * value for sample, end_s, value in spans)

    def _name(self, role: Role) -> str:
        return f"{role.value}-{next(self._numbers[role])}"

    def _started(self, name: str) -> None:
        if (found := self._starting.pop(name, None)) is not None:
            self._join(name, *found)
            self._sample()

    def _join(self, name: str, role: Role, profile: Profile) -> None:
        limits = self._limits(role, profile)
        worker = ModelledWorker(name, role, profile, limits, self._loop, self._listener)
        self._cluster.join(worker, self._end_if_idle)

    def _serving(self, worker_id: str) -> SimulatedSession:
        session = self._cluster.find(worker_id)
        if session is None or session.is_draining:
            raise SimulationError(f"{worker_id} does not serve")
        return session

    def _end_if_idle(self, session: SimulatedSession) -> None:
        if session.is_draining and session.num_legs == 0 and session.worker.is_quiet:
            self._cluster.leave(session)
            self._ended.append(session.worker)
            self._sample()

    def _sample(self) -> None:
        sessions = self._cluster.all()
        profiles = [s.worker.profile for s in sessions] + [p for _, p in self._starting.values()]
        sample = PoolSample(
            self._loop.now(),
            self.size(Role.PREFILL),
            self.size(Role.DECODE),
            len(self._starting),
            sum(profile.num_gpus for profile in profiles),
            sum(profile.usd_per_hour for profile in profiles),
        )
        if self.samples and self.samples[-1].at_s == sample.at_s:
            self.samples.pop()
        self.samples.append(sample)
