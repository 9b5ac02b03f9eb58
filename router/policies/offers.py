"""What a request would cost on each worker, and on pairs of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from router.candidates import Candidate
from router.outlook import Outlook, warm
from router.policies.host_tier import with_host
from router.policies.objectives import Objectives, phi, share
from router.policies.policy import Forecast, Pair, RequestFacts
from router.policies.pulls import NO_PULL, Pull, Pulls
from wire.block_hash import BLOCK_SIZE
from wire.cluster import Mode
from wire.messages import Role

_NO_ROOM = 1e3
_NUM_COMBINED = 3  # best ones of either kind
COST = itemgetter(0)

# Plain tuples: a decision makes some ten of each, and a named one takes a third of a microsecond.
# A worker as the one that decodes: cost, seconds a token, phi of that, tokens to pull, itself.
_Seat = tuple[float, float, float, int, Candidate, Outlook]
# A worker as the one that prefills: cost, seconds until it does, prefill_s, itself, what it pulls.
_Source = tuple[float, float, float, Candidate, Pull]
# Of the transfer: fetch_s, exposed_s, what of a token's time that is, and latency_s.
_Transfer = tuple[float, float, float, float]
_NO_TRANSFER: _Transfer = (0.0, 0.0, 0.0, 0.0)
# A pair before it is worth an explanation, with cautious times: cost, prefill, decode, what is
# pulled, queue_s, prefill_s, tpot_s, and the transfer between them.
Offer = tuple[float, Candidate | None, Candidate, Pull, float, float, float, _Transfer]


@dataclass(frozen=True, slots=True)
class Weights:
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
    foreign: float = 1.0
    followers: float = 8.0
    guard: float = 10.0


class Offers:
    """One request's prices. price: of a prefill second in shares of the TTFT objective.

    ahead_s: about when it will decode; batches count as they will be then. over_s: in which the
    prompts that wait anywhere are computed.
    """

    def __init__(
        self,
        weights: Weights,
        facts: RequestFacts,
        price: float,
        workers: Sequence[Candidate],
        ahead_s: float,
        over_s: float,
    ) -> None:
        self._facts = facts
        self._held, self._confirmed = facts.held_blocks, facts.confirmed_blocks
        self._now_s = facts.now_s
        self._host = facts.host_blocks
        self._ahead_s, self._over_s, self._answers = ahead_s, over_s, weights.answer_tokens
        self._pulls = Pulls(facts, workers)
        self._has_pulls = bool(self._pulls)
        self._num_tokens = facts.num_tokens
        self._links = facts.links
        self._chunk = weights.chunk_tokens
        self._foreign = weights.foreign if facts.mode is Mode.HYBRID else 0.0
        ttft_s = weights.ttft_ms / 1e3 or facts.ttft_slo_s
        tpot_s = weights.tpot_ms / 1e3 or facts.tpot_slo_s
        ttft_s, tpot_s = weights.target * ttft_s, weights.target * tpot_s
        self._aims = Objectives(ttft_s, tpot_s, facts.waited_s, weights.followers, weights.guard)
        self._tpot_s, self._price = tpot_s, price / ttft_s
        self._answer = max(1.0, min(weights.answer_tokens, facts.num_left_tokens - 1))
        self._seats: list[_Seat] = []
        self._sources: list[_Source] = []
        self._locals: list[Offer] = []

    def weigh(self, worker: Candidate, is_home: bool, is_maker: bool) -> None:
        """What the worker costs in each part that it can take."""
        outlook, num_tokens, aims = warm(worker.outlook), self._num_tokens, self._aims
        costs, margin = outlook.costs, outlook.margin
        num_seqs, context = outlook.batch_in(self._ahead_s, self._answers, self._over_s)
        itl_s = margin * costs.itl_s(num_seqs + 1, context + num_tokens)
        queue_s, prefills = outlook.queue_s, share(outlook, 0.0)
        if queue_s:
            queue_s = margin * outlook.queue_at(self._now_s)
        tpot_s = itl_s / (1 - prefills)
        tpot = phi(tpot_s / self._tpot_s)
        uncached = num_tokens - self._held.get(worker.worker_id, 0) * BLOCK_SIZE
        if uncached < 1:  # the last token is never cached
            uncached = 1
        own_s = margin * costs.prefill_s(uncached, num_tokens - uncached)
        wait_s, pull = queue_s, NO_PULL
        if self._host:
            own_s, _ = self._with_host(worker, outlook, uncached, own_s)
        if self._has_pulls and is_maker:
            own_s, pull = self._pulls.best(worker, outlook, own_s)
            wait_s = max(queue_s, pull[1])
        harm = aims.harm(outlook, num_seqs, itl_s, tpot, own_s) if num_seqs else 0.0
        room = _NO_ROOM if worker.num_free_blocks * BLOCK_SIZE < uncached else 0.0
        if is_maker:
            prefill_s = own_s + itl_s
            first_s = wait_s + outlook.path_s + prefill_s
            cost = aims.lateness(first_s) + self._price * own_s + harm + room
            self._sources.append((cost, wait_s, prefill_s, worker, pull))
        if is_home:
            cost = tpot + room
            if num_seqs:
                cost = tpot + aims.crowding(outlook, num_seqs, context, tpot, prefills) + room
            if worker.role is Role.PREFILL:
                cost += self._foreign
            seat = cost, tpot_s, tpot, uncached, worker, outlook
            self._seats.append(seat)
            self._locals.append(self._local(seat, num_seqs, itl_s, queue_s, own_s, harm))

    def all(self) -> list[Offer]:
        """Every worker alone, and the best of both parts together."""
        offers, mode = self._locals, self._facts.mode
        if mode is Mode.DISAGGREGATED:
            offers = [offer for offer in offers if self._is_apart(offer[2])]
        if self._facts.num_left_tokens > 1 and mode is not Mode.AGGREGATED:
            self._seats.sort(key=COST)
            self._sources.sort(key=COST)
            seats = self._seats[:_NUM_COMBINED]
            for source in self._sources[:_NUM_COMBINED]:
                maker = source[3]
                for seat in seats:
                    if seat[4] is not maker and seat[4].group == maker.group:
                        offers.append(self._remote(source, seat))
        return offers

    def _is_apart(self, worker: Candidate) -> bool:
        """What it computes alone is a prefill worker's work, or too little to be sent away."""
        facts = self._facts
        rest_tokens = facts.surely_uncached_tokens(worker.worker_id)
        return worker.role is Role.PREFILL or rest_tokens <= facts.append_tokens

    def _local(
        self,
        seat: _Seat,
        num_seqs: float,
        itl_s: float,
        queue_s: float,
        own_s: float,
        harm: float,
    ) -> Offer:
        cost, tpot_s, _, uncached, worker, outlook = seat
        aims = self._aims
        num_new = self._num_tokens - self._confirmed.get(worker.worker_id, 0) * BLOCK_SIZE
        if num_new < 1:
            num_new = 1
        pull = NO_PULL
        if num_new != uncached or self._has_pulls or self._host:
            own_s = outlook.margin * outlook.costs.prefill_s(num_new, self._num_tokens - num_new)
            if self._host:
                own_s, num_new = self._with_host(worker, outlook, num_new, own_s)
            if self._has_pulls:
                own_s, pull = self._pulls.best(worker, outlook, own_s)
                queue_s = max(queue_s, pull[1])
            harm = aims.harm(outlook, num_seqs, itl_s, seat[2], own_s) if num_seqs else 0.0
        num_steps = -(-(num_new + worker.waiting_tokens) // self._chunk)
        prefill_s = own_s + num_steps * itl_s
        cost += aims.lateness(queue_s + outlook.path_s + prefill_s) + harm
        # Its own prefill is over by the time of which tpot_s is.
        return (cost, None, worker, pull, queue_s, prefill_s, tpot_s, _NO_TRANSFER)

    def _remote(self, source: _Source, seat: _Seat) -> Offer:
        source_cost, queue_s, prefill_s, maker, pull = source
        cost, tpot_s, tpot, num_pulled, worker, outlook = seat
        link = outlook.link
        latency_s, fetch_s = link.latency_s, link.token_s * num_pulled
        pair = self._links.get((maker.worker_id, worker.worker_id)) if self._links else None
        if pair is not None and link.token_bytes:
            fetch_s = num_pulled * link.token_bytes / pair.bandwidth_bytes_s
            latency_s = max(latency_s, pair.latency_s)
        # A pull begins with its prefill; what was on the link before may be through by then.
        behind_s = fetch_s - (1 - link.tail_share) * prefill_s
        if outlook.backlog_s > queue_s:
            behind_s += outlook.backlog_s - queue_s
        tail_s = link.tail_share * fetch_s
        exposed_s = latency_s + (tail_s if tail_s > behind_s else behind_s)
        spread_s = exposed_s / self._answer
        tpot_s += spread_s
        cost += source_cost + phi(tpot_s / self._tpot_s) - tpot
        transfer = (fetch_s, exposed_s, spread_s, latency_s)
        return (cost, maker, worker, pull, queue_s, prefill_s, tpot_s, transfer)

    def _with_host(
        self, worker: Candidate, outlook: Outlook, num_new: int, own_s: float
    ) -> tuple[float, int]:
        num_blocks = self._host.get(worker.worker_id, 0)
        return with_host(outlook, self._num_tokens, num_new, num_blocks, own_s)


def explained(offer: Offer) -> Pair:
    """The pair with the times that are expected."""
    cost, prefill, decode, pull, queue_s, prefill_s, tpot_s, transfer = offer
    fetch_s, exposed_s, spread_s, latency_s = transfer
    maker, margin = warm((prefill or decode).outlook), warm(decode.outlook).margin
    queue_s, prefill_s, tpot_s = queue_s / maker.margin, prefill_s / maker.margin, tpot_s / margin
    ttft_s = queue_s + maker.path_s + prefill_s
    forecast = Forecast(ttft_s, tpot_s, queue_s, prefill_s, fetch_s, exposed_s, cost, pull[1])
    return Pair(prefill, decode, forecast, pull[0], spread_s / margin, latency_s)
