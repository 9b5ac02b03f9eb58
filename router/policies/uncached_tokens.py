"""Cost = uncached tokens and load: the cold predictor of DESIGN section 5."""

from collections.abc import Sequence
from random import Random

from router.candidates import Candidate
from router.policies.policy import RequestFacts, cheapest
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role

# What a sequence costs apart from its uncached tokens: it ends stickiness to one worker before
# the batch there is some ten times another's.
_SEQUENCE_TOKENS = 64
_NO_ROOM = 1 << 60


def uncached_tokens(
    facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
) -> Candidate:
    """Prefill: tokens ahead in the queue plus own. Decode: (own + queue + c) * (batch + 1).

    A decode worker without room for the request comes after all that have it.
    """
    # Plain lists, since a pool may have a thousand candidates; few of them hold any of the prompt.
    whole = max(1, facts.num_tokens)
    holders = {**facts.held_blocks, **facts.host_blocks} if facts.host_blocks else facts.held_blocks
    own_tokens = {worker_id: facts.effort_tokens(worker_id) for worker_id in holders}
    own = own_tokens.get
    if phase is Role.PREFILL:
        costs = [own(worker.worker_id, whole) + worker.waiting_tokens for worker in candidates]
    else:
        costs = [
            ((need := own(worker.worker_id, whole)) + worker.waiting_tokens + _SEQUENCE_TOKENS)
            * (worker.num_seqs + 1)
            + _NO_ROOM * (worker.num_free_blocks * BLOCK_SIZE < need)
            for worker in candidates
        ]
    return cheapest(candidates, costs, rng)
