"""Each worker in turn; the baseline that every other policy has to beat."""

from collections.abc import Sequence
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts
from wire.messages import Role


def round_robin(
    facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
) -> Candidate:
    """The request's ordinal picks, in the order of worker ids."""
    ordered = sorted(candidates, key=lambda candidate: candidate.worker_id)
    return ordered[facts.ordinal % len(ordered)]
