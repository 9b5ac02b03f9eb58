"""Cost = uncached tokens and load: the cold predictor of DESIGN section 5."""

from collections.abc import Sequence
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts, least
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role

# What a sequence costs apart from its uncached tokens: it ends stickiness to one worker before
# the batch there is some ten times another's.
_SEQUENCE_TOKENS = 64


def uncached_tokens(
    facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
) -> Candidate:
    """Prefill: tokens ahead in the queue plus own. Decode: (own + queue + c) * (batch + 1).

    A decode worker without room for the request comes after all that have it.
    """

    num_tokens, held_blocks = facts.num_tokens, facts.held_blocks.get  # asked a thousand times

    def prefill_cost(candidate: Candidate) -> tuple[int, int]:
        own = num_tokens - held_blocks(candidate.worker_id, 0) * BLOCK_SIZE
        return (0, (own if own > 1 else 1) + candidate.waiting_tokens)

    def decode_cost(candidate: Candidate) -> tuple[int, int]:
        own = num_tokens - held_blocks(candidate.worker_id, 0) * BLOCK_SIZE
        if own < 1:
            own = 1
        lacks_room = candidate.num_free_blocks * BLOCK_SIZE < own
        work = own + candidate.waiting_tokens + _SEQUENCE_TOKENS
        return (lacks_room, work * (candidate.num_seqs + 1))

    return least(candidates, prefill_cost if phase is Role.PREFILL else decode_cost, rng)
