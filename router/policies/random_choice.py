"""Any worker, each as likely; the floor of every comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """Uniform among the candidates."""

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        return rng.choice(candidates)
