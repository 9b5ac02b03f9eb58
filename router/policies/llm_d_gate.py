"""llm-d's affinity gate: workers that hold the prompt, unless waiting there costs too much.

As llm-d-router documents its default: workers whose prefix match is at least 0.80 are kept, unless
the time to the first token that is predicted there is more than 18 s above the best one's; then
the least token load decides. It prefills remotely from a static threshold on uncached tokens, which
is this router's `local_prefill_max_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts, least
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class LlmDGate:
    """match: the share that opens the gate. tokens_per_s: of prefill, for the prediction."""

    match: float = 0.80
    penalty_s: float = 18.0
    tokens_per_s: float = 30_000.0

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        waits_s = {found.worker_id: self._ttft_s(facts, found) for found in candidates}
        limit_s = min(waits_s.values()) + self.penalty_s
        holders = [
            found
            for found in candidates
            if self._share(facts, found) >= self.match and waits_s[found.worker_id] <= limit_s
        ]

        def load(candidate: Candidate) -> tuple[float, float]:
            used_blocks = candidate.num_blocks - candidate.num_free_blocks
            return (candidate.waiting_tokens + used_blocks * BLOCK_SIZE, candidate.num_seqs)

        return least(holders or candidates, load, rng)

    def _ttft_s(self, facts: RequestFacts, candidate: Candidate) -> float:
        own = facts.effort_tokens(candidate.worker_id)
        return (own + candidate.waiting_tokens) / self.tokens_per_s

    def _share(self, facts: RequestFacts, candidate: Candidate) -> float:
        return facts.weighed_blocks(candidate.worker_id) * BLOCK_SIZE / facts.num_tokens
