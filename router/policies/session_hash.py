"""One worker a conversation, by rendezvous hashing of the prompt's beginning.

The rule of session-affine front ends, such as vLLM production-stack's session router, with the
beginning of the prompt in the place of a session header. (Thaler, Ravishankar, "Using name-based
mappings to increase hit rates", ToN 1998.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import xxhash

from router.candidates import Candidate
from router.policies.policy import RequestFacts
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class SessionHash:
    """depth: the prompt's block whose chained hash is the key, or the last one before it."""

    depth: int = 1

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        hashes = facts.block_hashes
        key = hashes[min(self.depth, len(hashes) - 1)] if hashes else facts.ordinal
        return max(candidates, key=lambda found: _weight(found.worker_id, key))


def _weight(worker_id: str, key: int) -> int:
    return xxhash.xxh3_64_intdigest(worker_id.encode(), seed=key & 0xFFFF_FFFF_FFFF_FFFF)
