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
from operator import itemgetter
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
_NUM_COMBINED = 4  # best ones of either kind
_NUM_EXPLAINED = 8
_TIE = 1.03
_COST = itemgetter(0)


class _Stand(NamedTuple):
    """A worker as this request finds it, with the request in its batch.

    tpot: phi of TPOT over its objective, if no more prefill comes.
    """

    worker: Candidate
    outlook: Outlook
    itl_s: float
    share: float
    tpot: float
    uncached_tokens: int


class _Seat(NamedTuple):
    """A worker seen as the one that decodes. cost: of the decode alone."""

    cost: float
    tpot_s: float
    stand: _Stand


class _Source(NamedTuple):
    """A worker seen as the one that prefills for another."""

    cost: float
    queue_s: float
    prefill_s: float
    worker: Candidate


class _Offer(NamedTuple):
    """A pair before it is worth an explanation."""

    cost: float
    forecast: tuple[float, float, float, float, float, float]  # the other fields of Forecast
    prefill: Candidate | None
    decode: Candidate


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
        makers = (*prefill, *decode) if self.anywhere & 2 else prefill
        homes, makers = _pruned(facts, homes, _by_batch), _pruned(facts, makers, _by_queue)
        known = {worker.worker_id: worker for worker in (*homes, *makers)}
        stands = {worker_id: ask.stand(worker) for worker_id, worker in known.items()}
        seats = [ask.seat(stands[worker.worker_id]) for worker in homes]
        offers = [ask.local(seat) for seat in seats]
        if facts.num_left_tokens > 1:
            busy = sum(map(_busy, prefill)) / max(1, len(prefill))
            sources = [ask.source(stands[worker.worker_id], busy) for worker in makers]
            best_seats = sorted(seats, key=_COST)[:_NUM_COMBINED]
            for source in sorted(sources, key=_COST)[:_NUM_COMBINED]:
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

    def stand(self, worker: Candidate) -> _Stand:
        outlook = _outlook(worker)
        context = outlook.context_tokens + self._num_tokens
        itl_s = outlook.margin * outlook.costs.itl_s(outlook.num_seqs + 1, context)
        share = _share(outlook, 0.0)
        tpot = _phi(itl_s / (1 - share) / self._tpot_s)
        uncached = self._facts.uncached_tokens(worker.worker_id)
        return _Stand(worker, outlook, itl_s, share, tpot, uncached)

    def seat(self, stand: _Stand) -> _Seat:
        worker, outlook, itl_s, share, cost, uncached_tokens = stand
        if outlook.num_seqs:
            before_s = outlook.costs.itl_s(outlook.num_seqs, outlook.context_tokens)
            before = _phi(outlook.margin * before_s / (1 - share) / self._tpot_s)
            cost += outlook.num_seqs * (cost - before)
        if worker.role is Role.PREFILL:
            cost += self._foreign
        if worker.num_free_blocks * BLOCK_SIZE < uncached_tokens:
            cost += _NO_ROOM
        return _Seat(cost, itl_s / (1 - share), stand)

    def source(self, stand: _Stand, busy: float) -> _Source:
        worker, outlook, num_new = stand.worker, stand.outlook, stand.uncached_tokens
        own_s = outlook.margin * outlook.costs.prefill_s(num_new, self._num_tokens - num_new)
        queue_s = outlook.margin * outlook.queue_s
        prefill_s = own_s + stand.itl_s
        cost = self._lateness(queue_s + prefill_s) + busy / (1 - busy) * own_s / self._ttft_s
        cost += self._disturbance(stand, own_s)
        if worker.num_free_blocks * BLOCK_SIZE < num_new:
            cost += _NO_ROOM
        return _Source(cost, queue_s, prefill_s, worker)

    def local(self, seat: _Seat) -> _Offer:
        stand = seat.stand
        worker, outlook = stand.worker, stand.outlook
        num_new = self._facts.surely_uncached_tokens(worker.worker_id)
        own_s = outlook.margin * outlook.costs.prefill_s(num_new, self._num_tokens - num_new)
        num_steps = math.ceil((num_new + worker.waiting_tokens) / self._chunk)
        prefill_s = own_s + num_steps * stand.itl_s
        queue_s = outlook.margin * outlook.queue_s
        cost = seat.cost + self._lateness(queue_s + prefill_s) + self._disturbance(stand, own_s)
        tpot_s = stand.itl_s / (1 - _share(outlook, own_s))
        ttft_s = queue_s + prefill_s
        return _Offer(cost, (ttft_s, tpot_s, queue_s, prefill_s, 0.0, 0.0), None, worker)

    def remote(self, source: _Source, seat: _Seat) -> _Offer:
        source_cost, queue_s, prefill_s, maker = source
        outlook = seat.stand.outlook
        link = outlook.link
        fetch_s = link.token_s * seat.stand.uncached_tokens
        # A pull begins with its prefill; what was on the link before may be through by then.
        behind_s = fetch_s - (1 - link.tail_share) * prefill_s
        if outlook.backlog_s > queue_s:
            behind_s += outlook.backlog_s - queue_s
        exposed_s = link.latency_s + max(link.tail_share * fetch_s, behind_s)
        tpot_s = seat.tpot_s + exposed_s / self._answer
        cost = source_cost + seat.cost + _phi(tpot_s / self._tpot_s) - seat.stand.tpot
        forecast = (queue_s + prefill_s, tpot_s, queue_s, prefill_s, fetch_s, exposed_s)
        return _Offer(cost, forecast, maker, seat.stand.worker)

    def _lateness(self, ttft_s: float) -> float:
        """The request's own, and that of those who will queue behind it in that time."""
        z = ttft_s / self._ttft_s
        return _phi(z) * (1 + self._followers * z)

    def _disturbance(self, stand: _Stand, prefill_s: float) -> float:
        """What prefill_s beside a batch costs the batch."""
        outlook = stand.outlook
        if not outlook.num_seqs:
            return 0.0
        after = _phi(stand.itl_s / (1 - _share(outlook, prefill_s)) / self._tpot_s)
        breaks = stand.tpot <= 1 < after
        return outlook.num_seqs * (after - stand.tpot) + self._guard * breaks


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
    return _outlook(worker).tpot_s


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
    hitting.sort(key=lambda worker: -held[worker.worker_id])
    picked = (*hitting[:_NUM_SCORED], *sorted(workers, key=key)[:_NUM_SCORED])
    return list({worker.worker_id: worker for worker in picked}.values())


def _fit(source: _Source, seat: _Seat) -> bool:
    return source.worker is not seat.stand.worker and source.worker.group == seat.stand.worker.group


def _chosen_first(facts: RequestFacts, offers: list[_Offer], rng: Random) -> Sequence[Pair]:
    """Ties go to the larger hit, then to the less costly of two random ones."""
    best = sorted(offers, key=_COST)[:_NUM_EXPLAINED]
    equals = [offer for offer in best if offer.cost <= _TIE * best[0].cost]
    if len(equals) > 1:
        hits = [_hit(facts, offer) for offer in equals]
        equals = [offer for offer, hit in zip(equals, hits, strict=True) if hit == max(hits)]
        if len(equals) > 1:
            equals = rng.sample(equals, 2)
    chosen = min(equals, key=_COST)
    ranked = (chosen, *(offer for offer in best if offer is not chosen))
    return [
        Pair(offer.prefill, offer.decode, Forecast(*offer.forecast, offer.cost)) for offer in ranked
    ]


def _hit(facts: RequestFacts, offer: _Offer) -> int:
    held = facts.held_blocks
    source = offer.prefill or offer.decode
    return held.get(source.worker_id, 0) + held.get(offer.decode.worker_id, 0)
