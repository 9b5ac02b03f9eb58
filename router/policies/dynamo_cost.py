"""NVIDIA Dynamo's KV router: prefill blocks to compute, weighted, plus active decode blocks.

As its documentation gives it (components/router, "KV cache routing"): cost = overlap_weight *
prefill blocks + decode blocks, the prefill blocks being those in the worker's queue and the
request's uncached ones; the least cost, or a draw from softmax(-cost / temperature) over costs
normalised to their range.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts, least
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class DynamoCost:
    """Its two settings, with its defaults."""

    overlap_weight: float = 1.0
    temperature: float = 0.0

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        def cost(candidate: Candidate) -> tuple[float, float]:
            return (self._cost(facts, candidate), 0.0)

        if self.temperature <= 0:
            return least(candidates, cost, rng)
        costs = [cost(candidate)[0] for candidate in candidates]
        lowest, width = min(costs), (max(costs) - min(costs)) or 1.0
        weights = [math.exp(-(c - lowest) / width / self.temperature) for c in costs]
        return rng.choices(candidates, weights)[0]

    def _cost(self, facts: RequestFacts, candidate: Candidate) -> float:
        to_compute = facts.effort_tokens(candidate.worker_id) + candidate.waiting_tokens
        active_blocks = candidate.num_blocks - candidate.num_free_blocks
        own_blocks = facts.num_tokens / BLOCK_SIZE
        return self.overlap_weight * to_compute / BLOCK_SIZE + active_blocks + own_blocks
