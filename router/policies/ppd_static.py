"""PPD's static rule: a later turn goes back to the decode worker that holds its conversation.

arXiv 2603.13358. With a `local_prefill_max_tokens` above the length of a turn, its short append is
then prefilled there; first turns prefill remotely.
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
class PpdStatic:
    """match: the share of the prompt that makes a worker the conversation's holder."""

    match: float = 0.5

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        if phase is Role.DECODE:
            enough = self.match * facts.num_tokens / BLOCK_SIZE
            held = {found: facts.held_blocks.get(found.worker_id, 0) for found in candidates}
            holders = [found for found in candidates if held[found] >= enough]
            if holders:
                return least(holders, lambda found: (-held[found], found.num_seqs), rng)
        return least_load(facts, phase, candidates, rng)
