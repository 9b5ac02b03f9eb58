"""SGLang's cache-aware router: the longest prefix while loads are balanced, else the least load.

As sglang-router documents it: loads are unbalanced when max - min > 64 and max > 1.5 * min
requests; balanced, a match of more than 0.3 of the prompt wins, and below that the worker with the
smallest tree, for which the least loaded one stands here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from router.candidates import Candidate
from router.policies.least_load import least_load
from router.policies.policy import RequestFacts, least
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class SglangCacheAware:
    """Its three thresholds, with its defaults."""

    balance_abs: float = 64
    balance_rel: float = 1.5
    match: float = 0.3

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        loads = [candidate.num_seqs for candidate in candidates]
        low, high = min(loads), max(loads)
        is_balanced = high - low <= self.balance_abs or high <= self.balance_rel * low

        def held_blocks(candidate: Candidate) -> int:
            return facts.held_blocks.get(candidate.worker_id, 0)

        longest = max(held_blocks(candidate) for candidate in candidates)
        if is_balanced and longest * BLOCK_SIZE > self.match * facts.num_tokens:
            holders = [found for found in candidates if held_blocks(found) == longest]
            return least(holders, lambda found: (found.num_seqs, 0), rng)
        return least_load(facts, phase, candidates, rng)
