"""What a policy is: a pure function from a request and candidates to one candidate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol, runtime_checkable

from router.candidates import Candidate
from router.pairs import PairLinks
from wire.block_hash import BLOCK_SIZE
from wire.cluster import Mode
from wire.messages import Role

HOST_WEIGHT = 0.8  # of a block in the host's memory, by llm-d's published tier weights


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What placement knows of a request.

    num_tokens: prompt plus tokens already sent. num_left_tokens: output tokens still allowed.
    ordinal: counts the router's placements. held_blocks, confirmed_blocks: leading prompt blocks
    by worker_id, with and without what was only just routed. excluded: (worker_id, epoch).
    links: the ways of KV that were measured. waited_s: since its arrival, of ttft_slo_s. mode: what
    the placement has to respect; append_tokens: what a decode worker may compute when it is
    disaggregated. host_blocks: leading blocks on the device or in the host's memory, where the
    latter adds to the former.
    """

    num_tokens: int
    num_left_tokens: int
    ordinal: int = 0
    held_blocks: Mapping[str, int] = field(default_factory=dict)
    confirmed_blocks: Mapping[str, int] = field(default_factory=dict)
    excluded: frozenset[tuple[str, int]] = frozenset()
    block_hashes: Sequence[int] = ()  # of the prompt's full blocks, chained
    ttft_slo_s: float = 2.0
    tpot_slo_s: float = 0.05
    links: PairLinks = field(default_factory=dict)
    waited_s: float = 0.0
    now_s: float = 0.0  # on the router's clock
    mode: Mode = Mode.HYBRID
    append_tokens: int = 0
    host_blocks: Mapping[str, int] = field(default_factory=dict)

    def uncached_tokens(self, worker_id: str) -> int:
        """Tokens that the device does not hold there; at least one, since the last token is never
        cached."""
        return max(1, self.num_tokens - self.held_blocks.get(worker_id, 0) * BLOCK_SIZE)

    def effort_tokens(self, worker_id: str) -> int:
        """The same, with what the host tier holds weighed as the work that it spares."""
        return self._effort(worker_id, self.held_blocks.get(worker_id, 0))

    def surely_uncached_tokens(self, worker_id: str) -> int:
        """As effort_tokens, believing only what the worker confirmed."""
        return self._effort(worker_id, self.confirmed_blocks.get(worker_id, 0))

    def weighed_blocks(self, worker_id: str) -> float:
        """Leading blocks, each by the weight of its tier."""
        return _weighed(self.held_blocks.get(worker_id, 0), self.host_blocks.get(worker_id, 0))

    def _effort(self, worker_id: str, num_held: int) -> int:
        if not self.host_blocks:
            return max(1, self.num_tokens - num_held * BLOCK_SIZE)
        num_blocks = _weighed(num_held, self.host_blocks.get(worker_id, 0))
        return max(1, self.num_tokens - int(num_blocks * BLOCK_SIZE))


@dataclass(slots=True)
class Forecast:
    """What a pair was predicted to give, in seconds. cost: the objective, less is better.

    fetch_s: the whole KV transfer; exposed_s: what of it prefill does not hide. pull_s: until what
    a peer's cache holds of the prompt is where it is computed, 0 where nothing is pulled. Nobody
    changes one; that Python enforced it would cost a placement, which makes four, 4 us.
    """

    ttft_s: float = 0.0
    tpot_s: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    fetch_s: float = 0.0
    exposed_s: float = 0.0
    cost: float = 0.0
    pull_s: float = 0.0


class Pair(NamedTuple):
    """Workers for both phases; prefill is None where decode computes the prompt.

    pull_from: the worker whose cache gives the prompt's beginning to the one that computes it.
    spread_s: of the forecast's tpot_s, the exposed transfer, spread over the answer's tokens.
    latency_s: of the forecast's exposed_s, what neither the link's rate nor its backlog explains.
    """

    prefill: Candidate | None
    decode: Candidate
    forecast: Forecast
    pull_from: str = ""
    spread_s: float = 0.0
    latency_s: float = 0.0


@runtime_checkable
class PairPolicy(Protocol):
    """A policy that weighs both phases together, beside choosing for one as every policy does."""

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate: ...

    def rank(
        self,
        facts: RequestFacts,
        prefill: Sequence[Candidate],
        decode: Sequence[Candidate],
        rng: Random,
    ) -> Sequence[Pair]:
        """The chosen pair, then the best of the others; empty while predictors are cold."""


# Takes one or more candidates and the phase they are wanted for (DECODE also for whole answers).
Policy = Callable[[RequestFacts, Role, Sequence[Candidate], Random], Candidate]


def _weighed(num_held: int, num_in_either: int) -> float:
    behind = num_in_either - num_held
    return num_held + HOST_WEIGHT * behind if behind > 0 else num_held


def least(
    candidates: Sequence[Candidate], cost: Callable[[Candidate], tuple[float, float]], rng: Random
) -> Candidate:
    """A candidate of least cost, a random one among equals."""
    return cheapest(candidates, [cost(candidate) for candidate in candidates], rng)


def cheapest(
    candidates: Sequence[Candidate],
    costs: Sequence[int] | Sequence[tuple[float, float]],
    rng: Random,
) -> Candidate:
    """As least, of costs that are known.  # [num_candidates]"""
    lowest = min(costs)
    if costs.count(lowest) == 1:
        return candidates[costs.index(lowest)]
    equals = [found for found, price in zip(candidates, costs, strict=True) if price == lowest]
    return rng.choice(equals)
