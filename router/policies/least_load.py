"""Fewest sequences, then fewest waiting tokens; blind to caches."""

from collections.abc import Sequence
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts, least
from wire.messages import Role


def least_load(
    facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
) -> Candidate:
    """The prefill phase looks at waiting tokens first, the decode phase at sequences."""

    def cost(candidate: Candidate) -> tuple[int, int]:
        if phase is Role.PREFILL:
            return (candidate.waiting_tokens, candidate.num_seqs)
        return (candidate.num_seqs, candidate.waiting_tokens)

    return least(candidates, cost, rng)
