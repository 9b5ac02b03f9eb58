"""Faults of a simulation, carried out in virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from loadtest.faults import Fault, Injected
from simulate.errors import SimulationError
from simulate.event_loop import EventLoop
from simulate.pools import SimulatedPools
from wire.messages import Role

KINDS = ("kill", "freeze", "slow", "cut")
_SLOW_FACTOR = 0.1
_POLL_S = 0.25


@dataclass(slots=True)
class FaultPlan:
    """Carries faults out in virtual time, and watches for the victims' return.

    kill: the process dies and is started again. freeze: it stands still for the fault's duration.
    slow: a tenth of the bandwidth is left; cut: none; both for the duration, 0 for good.
    """

    faults: Sequence[Fault]
    loop: EventLoop
    pools: SimulatedPools
    rng: Random
    is_over: Callable[[], bool]
    injected: list[Injected] = field(default_factory=list)

    def begin(self) -> None:
        for fault in self.faults:
            if fault.kind not in KINDS:
                raise SimulationError(f"{fault.kind!r} is no fault: {', '.join(KINDS)}")
            self.loop.at(fault.at_s, self._inject, fault)

    def _inject(self, fault: Fault) -> None:
        if self.is_over():
            return
        victim = self._victim(fault.victim)
        if victim is None:
            problem = f"no worker {fault.victim} serves"
            self.injected.append(Injected(fault, fault.at_s, "", problem=problem))
            return
        index = len(self.injected)
        self.injected.append(Injected(fault, fault.at_s, victim))
        if fault.kind == "kill":
            self.pools.kill(victim)
        elif fault.kind == "freeze":
            self.pools.freeze(victim, fault.duration_s)
        else:
            self.pools.slow(victim, _SLOW_FACTOR if fault.kind == "slow" else 0.0)
            if fault.duration_s:
                self.loop.after(fault.duration_s, self._heal, victim)
        self.loop.after(_POLL_S, self._watch, index)

    def _heal(self, victim: str) -> None:
        self.pools.world.links.factors.pop(victim, None)

    def _watch(self, index: int) -> None:
        """Until the victim serves again as before."""
        one = self.injected[index]
        if self.pools.is_well(one.victim):
            back_s = self.loop.now() - one.at_s
            self.injected[index] = Injected(one.fault, one.at_s, one.victim, back_s)
        elif not self.is_over():
            self.loop.after(_POLL_S, self._watch, index)

    def _victim(self, name: str) -> str | None:
        """By name, by role, or any."""
        serving = [one for one in self.pools.workers if not one.is_draining]
        found = [one.worker_id for one in serving if one.worker_id == name]
        if not found and name in (*Role, "any"):
            found = [one.worker_id for one in serving if name in ("any", one.role)]
        return self.rng.choice(found) if found else None
