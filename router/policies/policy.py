"""What a policy is: a pure function from a request and candidates to one candidate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from router.candidates import Candidate
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What placement knows of a request.

    num_tokens: prompt plus tokens already sent. num_left_tokens: output tokens still allowed.
    ordinal: counts the router's placements. held_blocks, confirmed_blocks: leading prompt blocks
    by worker_id, with and without what was only just routed. excluded: (worker_id, epoch).
    """

    num_tokens: int
    num_left_tokens: int
    ordinal: int = 0
    held_blocks: Mapping[str, int] = field(default_factory=dict)
    confirmed_blocks: Mapping[str, int] = field(default_factory=dict)
    excluded: frozenset[tuple[str, int]] = frozenset()
    block_hashes: Sequence[int] = ()  # of the prompt's full blocks, chained

    def uncached_tokens(self, worker_id: str) -> int:
        """Tokens to compute there; at least one, since the last token is never cached."""
        return max(1, self.num_tokens - self.held_blocks.get(worker_id, 0) * BLOCK_SIZE)

    def surely_uncached_tokens(self, worker_id: str) -> int:
        """The same, believing only what the worker confirmed."""
        return max(1, self.num_tokens - self.confirmed_blocks.get(worker_id, 0) * BLOCK_SIZE)


# Takes one or more candidates and the phase they are wanted for (DECODE also for whole answers).
Policy = Callable[[RequestFacts, Role, Sequence[Candidate], Random], Candidate]


def least(
    candidates: Sequence[Candidate], cost: Callable[[Candidate], tuple[float, float]], rng: Random
) -> Candidate:
    """A candidate of least cost, a random one among equals."""
    costs = [cost(candidate) for candidate in candidates]
    lowest = min(costs)
    equals = [found for found, price in zip(candidates, costs, strict=True) if price == lowest]
    return equals[0] if len(equals) == 1 else rng.choice(equals)
