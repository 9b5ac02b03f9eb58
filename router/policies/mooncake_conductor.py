"""Mooncake's Conductor: the prefill worker of the least predicted time to the first token.

Algorithm 1 of Qin et al., "Mooncake: A KVCache-centric Disaggregated Architecture for LLM Serving"
(FAST 2025): TTFT = queue + prefill(length, prefix), argmin over the prefill workers; then a decode
worker by load. Its fetch of a prefix from another prefill worker has no counterpart in this
cluster, and its rejection is admission's, not placement's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts, least
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class MooncakeConductor:
    """The offline model of prefill: seconds a token, and a pair of tokens."""

    token_s: float = 25e-6
    pair_s: float = 6e-10

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        def ttft(candidate: Candidate) -> tuple[float, float]:
            own = facts.effort_tokens(candidate.worker_id)
            squares = facts.num_tokens**2 - (facts.num_tokens - own) ** 2
            queue_s = candidate.waiting_tokens * self.token_s
            return (queue_s + own * self.token_s + squares * self.pair_s, candidate.num_seqs)

        def decode_load(candidate: Candidate) -> tuple[float, float]:
            lacks_room = candidate.num_free_blocks * BLOCK_SIZE < facts.num_tokens
            return (lacks_room, candidate.num_seqs)

        return least(candidates, ttft if phase is Role.PREFILL else decode_load, rng)
