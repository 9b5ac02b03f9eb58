"""Faults at random times, from a rate and a seed."""

from dataclasses import dataclass
from random import Random

from loadtest.faults import Fault


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """Crashes of a worker per hour that it serves, as a Poisson process."""

    kills_per_worker_hour: float = 0.0

    def plan(self, num_workers: int, duration_s: float, seed: int) -> tuple[Fault, ...]:
        """The victims are drawn among those that serve when a fault is due."""
        rate = self.kills_per_worker_hour * num_workers / 3600
        rng, at_s, faults = Random(f"faults-{seed}"), 0.0, []
        while rate > 0:
            at_s += rng.expovariate(rate)
            if at_s >= duration_s:
                break
            faults.append(Fault("kill", "any", at_s))
        return tuple(faults)
