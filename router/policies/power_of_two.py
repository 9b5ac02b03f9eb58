"""The less loaded of two random workers (Mitzenmacher, "The Power of Two Choices", TPDS 2001)."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from router.candidates import Candidate
from router.policies.least_load import least_load
from router.policies.policy import RequestFacts
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """num_choices: candidates that are drawn, without repetition."""

    num_choices: int = 2

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        drawn = rng.sample(candidates, min(self.num_choices, len(candidates)))
        return least_load(facts, phase, drawn, rng)
