"""Where a request runs: pure decision from the request's facts and both pools."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import cast

from router.candidates import Candidate, ClusterView
from router.policies.policy import Pair, PairPolicy, Policy, RequestFacts
from wire.block_hash import BLOCK_SIZE
from wire.cluster import Mode
from wire.messages import Role


class PlacementKind(StrEnum):
    """remote: prefill and decode apart. local: one worker by choice. degraded: by need."""

    REMOTE = "remote"
    LOCAL = "local"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Placement:
    """prefill is None when `decode` computes the prompt itself; both are worker ids.

    pull_from: the peer whose cache gives the prompt's first pull_tokens to the worker that computes
    the rest; empty: all that this worker does not hold is computed. maker: that worker's role.
    mode: what it had to respect.
    """

    prefill: str | None
    decode: str
    kind: PlacementKind
    explanation: str
    ranking: tuple[Pair, ...] = ()  # this pair and the next best, where they were predicted
    pull_from: str = ""
    pull_tokens: int = 0
    maker: Role = Role.PREFILL
    mode: Mode = Mode.HYBRID

    @property
    def spares_prefill(self) -> bool:
        """By this choice, a decode worker computes the prompt; in one pool it has no choice."""
        is_free = self.mode is not Mode.AGGREGATED
        return is_free and self.kind is PlacementKind.LOCAL and self.maker is Role.DECODE


def place(
    facts: RequestFacts,
    view: ClusterView,
    policy: Policy,
    rng: Random,
    local_prefill_max_tokens: int,
) -> Placement | None:
    """Chooses the workers of one request in the facts' mode; None when no worker takes one.

    Where a pool is empty, the other one runs both phases whatever the mode.
    """
    prefill = _allowed(view.prefill, facts)
    decode = _allowed(view.decode, facts)
    if facts.mode is Mode.HYBRID:
        return _place(facts, prefill, decode, policy, rng, local_prefill_max_tokens)
    if facts.mode is Mode.AGGREGATED:
        placed = _place_in_one_pool(facts, (*decode, *prefill), policy, rng)
    else:
        placed = _place(facts, prefill, decode, policy, rng, local_prefill_max_tokens)
    if placed is None:
        return None
    why = f"{facts.mode.value}: {placed.explanation}"
    return replace(placed, explanation=why, mode=facts.mode)


def _place_in_one_pool(
    facts: RequestFacts, pool: Sequence[Candidate], policy: Policy, rng: Random
) -> Placement | None:
    """Whole on one worker, of whichever role."""
    if not pool:
        return None
    pairs = _pair_policy(policy)
    ranking = tuple(pairs.rank(facts, (), pool, rng)) if pairs is not None else ()
    if ranking:
        return place_pair(facts, ranking)
    worker = policy(facts, Role.DECODE, pool, rng)
    return _whole(facts, worker, PlacementKind.LOCAL, f"of {len(pool)}")


def _place(
    facts: RequestFacts,
    prefill: Sequence[Candidate],
    decode: Sequence[Candidate],
    policy: Policy,
    rng: Random,
    local_prefill_max_tokens: int,
) -> Placement | None:
    """The decode worker is chosen first. Whether it prefills itself is decided on confirmed blocks
    alone: KV that is still on its way there would be computed a second time.
    """
    if not prefill or not decode:
        return _place_degraded(facts, decode or prefill, policy, rng, bool(decode))
    pairs = _pair_policy(policy)
    if pairs is not None:
        ranking = pairs.rank(facts, prefill, decode, rng)
        if ranking:
            return place_pair(facts, tuple(ranking))
    if facts.num_left_tokens == 1:
        worker = policy(facts, Role.PREFILL, prefill, rng)
        return _whole(facts, worker, PlacementKind.LOCAL, "one token is wanted")
    groups = {candidate.group for candidate in prefill}
    paired = [candidate for candidate in decode if candidate.group in groups]
    if not paired:
        worker = policy(facts, Role.DECODE, decode, rng)
        return _whole(facts, worker, PlacementKind.DEGRADED, "no prefill worker has its layout")
    reader = policy(facts, Role.DECODE, paired, rng)
    rest_tokens = facts.surely_uncached_tokens(reader.worker_id)
    if rest_tokens <= local_prefill_max_tokens:
        return _whole(facts, reader, PlacementKind.LOCAL, f"{rest_tokens} tokens to compute")
    partners = prefill
    if len(groups) > 1:
        partners = [candidate for candidate in prefill if candidate.group == reader.group]
    source = policy(facts, Role.PREFILL, partners, rng)
    explanation = f"{_cost(facts, source)} of {len(partners)}; {_cost(facts, reader)} of "
    return Placement(
        source.worker_id, reader.worker_id, PlacementKind.REMOTE, f"{explanation}{len(paired)}"
    )


def _pair_policy(policy: Policy) -> PairPolicy | None:
    """The policy itself where it weighs pairs. To ask the protocol instead takes 10 us."""
    return cast(PairPolicy, policy) if hasattr(policy, "rank") else None


def place_pair(facts: RequestFacts, ranking: tuple[Pair, ...]) -> Placement:
    """The ranking's first pair."""
    chosen = ranking[0]
    forecast, peer = chosen.forecast, chosen.pull_from
    explanation = (
        f"cost {forecast.cost:.3f}: {forecast.ttft_s:.3f} s to the first token, "
        f"{1e3 * forecast.tpot_s:.2f} ms a token"
    )
    pull_tokens = 0
    if peer:
        pull_tokens = facts.confirmed_blocks[peer] * BLOCK_SIZE
        explanation += f"; {pull_tokens} tokens from {peer} in {1e3 * forecast.pull_s:.0f} ms"
    source = None if chosen.prefill is None else chosen.prefill.worker_id
    kind = PlacementKind.LOCAL if source is None else PlacementKind.REMOTE
    maker = chosen.prefill or chosen.decode
    decode = chosen.decode.worker_id
    return Placement(source, decode, kind, explanation, ranking, peer, pull_tokens, maker.role)


def _allowed(pool: Sequence[Candidate], facts: RequestFacts) -> Sequence[Candidate]:
    if not facts.excluded:
        return pool
    return [found for found in pool if (found.worker_id, found.epoch) not in facts.excluded]


def _place_degraded(
    facts: RequestFacts, pool: Sequence[Candidate], policy: Policy, rng: Random, has_decode: bool
) -> Placement | None:
    if not pool:
        return None
    worker = policy(facts, Role.DECODE, pool, rng)
    missing = "prefill" if has_decode else "decode"
    return _whole(facts, worker, PlacementKind.DEGRADED, f"no {missing} worker is live")


def _whole(facts: RequestFacts, worker: Candidate, kind: PlacementKind, why: str) -> Placement:
    why = f"{why}; {_cost(facts, worker)}"
    return Placement(None, worker.worker_id, kind, why, maker=worker.role)


def _cost(facts: RequestFacts, worker: Candidate) -> str:
    return (
        f"{worker.worker_id}: {facts.uncached_tokens(worker.worker_id)} of {facts.num_tokens} "
        f"tokens uncached, {worker.waiting_tokens} queued, {worker.num_seqs} sequences"
    )
