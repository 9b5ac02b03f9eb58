"""The pair of workers of least predicted cost, in shares of the latency objectives.

For a request of n tokens, every worker d that can decode it and every option of where its prompt is
computed (on d, or on a prefill worker p), with phi(z) = z up to 1 and 1 + 8 (z - 1) beyond:

    J = phi(z) (1 + followers z), z = TTFT / SLO         the request, and those who queue behind it
      + phi(TPOT / SLO)
      + sum over d's and p's residents of what their own phi(TPOT / SLO) rises by
      + rho / (1 - rho) T_p / TTFT SLO                   the price of prefill, rho of it in use

A worker that spends the share s of its time on prefill gives its sequences a token each
ITL(B, K) / (1 - s): prefill that runs beside a batch costs the batch exactly its time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from operator import attrgetter, itemgetter
from random import Random
from typing import NamedTuple

from router.candidates import Candidate
from router.outlook import Outlook
from router.policies.policy import Forecast, Pair, RequestFacts
from router.policies.uncached_tokens import uncached_tokens
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role

_WINDOW_S = 4.0  # over which prefill beside a batch is spread, as StepPredictor.prefill_share
_STEEP = 8.0
_FULL = 0.95
_NO_ROOM = 1e3
_NUM_SCORED = 16  # least loaded workers of a large pool, and as many with hits
_NUM_COMBINED = 6  # best ones of either kind
_NUM_EXPLAINED = 8
_TIE = 1.03
_COST = itemgetter(0)


class _Seat(NamedTuple):
    """A worker seen as the one that decodes. cost: of the decode alone."""

    cost: float
    tpot_s: float
    worker: Candidate
    outlook: Outlook


class _Source(NamedTuple):
    """A worker seen as the one that prefills for another."""

    cost: float
    queue_s: float
    prefill_s: float
    worker: Candidate


class _Offer(NamedTuple):
    """A pair before it is worth an explanation."""

    forecast: tuple[float, ...]  # as the fields of Forecast
    prefill: Candidate | None
    decode: Candidate

    @property
    def cost(self) -> float:
        return self.forecast[-1]


@dataclass(frozen=True, slots=True)
class Predicted:
    """ttft_ms, tpot_ms: objectives in place of the request's own; 0: the request's own.

    target: the share of an objective that is aimed at. chunk_tokens: prompt tokens that a step
    beside a batch computes. answer_tokens: the length of an answer that nobody bounds. anywhere: 1
    lets prefill workers decode, 2 decode workers prefill for others, 3 both. foreign: what a decode
    on a prefill worker costs on top, since it is in the way of all prefill after it. followers: how
    many will queue behind a request that takes all of its TTFT objective. guard: what it costs to
    break the objective of residents that meet it.
    """

    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    target: float = 0.85
    chunk_tokens: float = 1024.0
    answer_tokens: float = 200.0
    anywhere: int = 3
    foreign: float = 3.0
    followers: float = 8.0
    guard: float = 100.0

    def __call__(
        self, facts: RequestFacts, phase: Role, candidates: Sequence[Candidate], rng: Random
    ) -> Candidate:
        return uncached_tokens(facts, phase, candidates, rng)

    def rank(
        self,
        facts: RequestFacts,
        prefill: Sequence[Candidate],
        decode: Sequence[Candidate],
        rng: Random,
    ) -> Sequence[Pair]:
        """The chosen pair, then the best of the others; empty while a worker is cold."""
        if any(worker.outlook is None for worker in (*prefill, *decode)):
            return ()
        ask = _Ask(self, facts)
        homes = (*decode, *prefill) if self.anywhere & 1 else decode
        seats = [ask.seat(worker) for worker in _pruned(facts, homes, _by_batch)]
        offers = [ask.local(seat) for seat in seats]
        if facts.num_left_tokens > 1:
            makers = (*prefill, *decode) if self.anywhere & 2 else prefill
            busy = sum(map(_busy, prefill)) / max(1, len(prefill))
            sources = [ask.source(found, busy) for found in _pruned(facts, makers, _by_queue)]
            best_seats = nsmallest(_NUM_COMBINED, seats, key=_COST)
            for source in nsmallest(_NUM_COMBINED, sources, key=_COST):
                offers += [ask.remote(source, seat) for seat in best_seats if _fit(source, seat)]
        return _chosen_first(facts, offers, rng)


class _Ask:
    """One request's prices."""

    def __init__(self, policy: Predicted, facts: RequestFacts) -> None:
        self._facts = facts
        self._num_tokens = facts.num_tokens
        self._chunk = policy.chunk_tokens
        self._followers = policy.followers
        self._guard, self._foreign = policy.guard, policy.foreign
        ttft_s = policy.ttft_ms / 1e3 or facts.ttft_slo_s
        tpot_s = policy.tpot_ms / 1e3 or facts.tpot_slo_s
        self._ttft_s, self._tpot_s = policy.target * ttft_s, policy.target * tpot_s
        self._answer = max(1.0, min(policy.answer_tokens, facts.num_left_tokens - 1))

    def seat(self, worker: Candidate) -> _Seat:
        outlook = _outlook(worker)
        costs, share = outlook.costs, _share(outlook, 0.0)
        tpot_s = self._itl_s(outlook) / (1 - share)
        before_s = outlook.margin * costs.itl_s(outlook.num_seqs, outlook.context_tokens)
        own = cost = _phi(tpot_s / self._tpot_s)
        cost += outlook.num_seqs * (own - _phi(before_s / (1 - share) / self._tpot_s))
        if worker.role is Role.PREFILL:
            cost += self._foreign
        if worker.num_free_blocks * BLOCK_SIZE < self._facts.uncached_tokens(worker.worker_id):
            cost += _NO_ROOM
        return _Seat(cost, tpot_s, worker, outlook)

    def source(self, worker: Candidate, busy: float) -> _Source:
        outlook = _outlook(worker)
        costs, margin = outlook.costs, outlook.margin
        num_new = self._facts.uncached_tokens(worker.worker_id)
        own_s = margin * costs.prefill_s(num_new, self._num_tokens - num_new)
        step_s = margin * costs.itl_s(outlook.num_seqs, outlook.context_tokens)
        queue_s = margin * outlook.queue_s
        cost = self._lateness(queue_s + own_s + step_s)
        cost += busy / (1 - busy) * own_s / self._ttft_s
        cost += self._disturbance(outlook, own_s)
        if worker.num_free_blocks * BLOCK_SIZE < num_new:
            cost += _NO_ROOM
        return _Source(cost, queue_s, own_s + step_s, worker)

    def local(self, seat: _Seat) -> _Offer:
        outlook, costs = seat.outlook, seat.outlook.costs
        margin = outlook.margin
        num_new = self._facts.surely_uncached_tokens(seat.worker.worker_id)
        own_s = margin * costs.prefill_s(num_new, self._num_tokens - num_new)
        num_steps = math.ceil((num_new + seat.worker.waiting_tokens) / self._chunk)
        prefill_s = own_s + num_steps * self._itl_s(outlook)
        queue_s = margin * outlook.queue_s
        cost = seat.cost + self._lateness(queue_s + prefill_s)
        cost += self._disturbance(outlook, own_s)
        tpot_s = self._itl_s(outlook) / (1 - _share(outlook, own_s))
        ttft_s = queue_s + prefill_s
        return _Offer((ttft_s, tpot_s, queue_s, prefill_s, 0.0, 0.0, cost), None, seat.worker)

    def remote(self, source: _Source, seat: _Seat) -> _Offer:
        link = seat.outlook.link
        fetch_s = link.token_s * self._facts.uncached_tokens(seat.worker.worker_id)
        # A pull begins with its prefill; what was on the link before may be through by then.
        backlog_s = max(0.0, seat.outlook.backlog_s - source.queue_s)
        behind_s = fetch_s + backlog_s - (1 - link.tail_share) * source.prefill_s
        exposed_s = link.latency_s + max(link.tail_share * fetch_s, behind_s)
        tpot_s = seat.tpot_s + exposed_s / self._answer
        cost = source.cost + seat.cost
        cost += _phi(tpot_s / self._tpot_s) - _phi(seat.tpot_s / self._tpot_s)
        queue_s, prefill_s = source.queue_s, source.prefill_s
        forecast = (queue_s + prefill_s, tpot_s, queue_s, prefill_s, fetch_s, exposed_s, cost)
        return _Offer(forecast, source.worker, seat.worker)

    def _itl_s(self, outlook: Outlook) -> float:
        context = outlook.context_tokens + self._num_tokens
        return outlook.margin * outlook.costs.itl_s(outlook.num_seqs + 1, context)

    def _lateness(self, ttft_s: float) -> float:
        """The request's own, and that of those who will queue behind it in that time."""
        z = ttft_s / self._ttft_s
        return _phi(z) * (1 + self._followers * z)

    def _disturbance(self, outlook: Outlook, prefill_s: float) -> float:
        """What prefill_s beside a batch costs the batch."""
        if not outlook.num_seqs:
            return 0.0
        itl_s = self._itl_s(outlook)
        after = _phi(itl_s / (1 - _share(outlook, prefill_s)) / self._tpot_s)
        before = _phi(itl_s / (1 - _share(outlook, 0.0)) / self._tpot_s)
        breaks = before <= 1 < after
        return outlook.num_seqs * (after - before) + self._guard * breaks


def _outlook(worker: Candidate) -> Outlook:
    assert worker.outlook is not None, "rank() looks for cold workers first"
    return worker.outlook


def _busy(worker: Candidate) -> float:
    return min(_FULL, _outlook(worker).prefill_share)


def _share(outlook: Outlook, more_s: float) -> float:
    """Of its time that a worker prefills when more_s of it come in."""
    return min(_FULL, outlook.prefill_share + (outlook.queue_s + more_s) / _WINDOW_S)


def _phi(z: float) -> float:
    return z if z <= 1 else 1 + _STEEP * (z - 1)


def _by_batch(worker: Candidate) -> float:
    outlook = _outlook(worker)
    return outlook.costs.itl_s(outlook.num_seqs, outlook.context_tokens) / (1 - _share(outlook, 0))


def _by_queue(worker: Candidate) -> float:
    return _outlook(worker).queue_s


def _pruned(
    facts: RequestFacts, workers: Sequence[Candidate], key: Callable[[Candidate], float]
) -> Sequence[Candidate]:
    """All of a small pool; of a large one the least loaded and those with the largest hits."""
    if len(workers) <= 2 * _NUM_SCORED:
        return workers
    held = facts.held_blocks
    hitting = [worker for worker in workers if worker.worker_id in held]
    hitting = nlargest(_NUM_SCORED, hitting, key=lambda worker: held[worker.worker_id])
    light = nsmallest(_NUM_SCORED, workers, key=key)
    return list({worker.worker_id: worker for worker in (*hitting, *light)}.values())


def _fit(source: _Source, seat: _Seat) -> bool:
    return source.worker is not seat.worker and source.worker.group == seat.worker.group


def _chosen_first(facts: RequestFacts, offers: list[_Offer], rng: Random) -> Sequence[Pair]:
    """Ties go to the larger hit, then to the less costly of two random ones."""
    best = nsmallest(_NUM_EXPLAINED, offers, key=attrgetter("cost"))
    equals = [offer for offer in best if offer.cost <= _TIE * best[0].cost]
    if len(equals) > 1:
        hits = [_hit(facts, offer) for offer in equals]
        equals = [offer for offer, hit in zip(equals, hits, strict=True) if hit == max(hits)]
        if len(equals) > 1:
            equals = rng.sample(equals, 2)
    chosen = min(equals, key=attrgetter("cost"))
    ranked = (chosen, *(offer for offer in best if offer is not chosen))
    return [Pair(offer.prefill, offer.decode, Forecast(*offer.forecast)) for offer in ranked]


def _hit(facts: RequestFacts, offer: _Offer) -> int:
    held = facts.held_blocks
    source = offer.prefill or offer.decode
    return held.get(source.worker_id, 0) + held.get(offer.decode.worker_id, 0)
