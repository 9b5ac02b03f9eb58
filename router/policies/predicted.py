"""The pair of workers of least predicted cost, in shares of the latency objectives.

For a request of n tokens, every worker d that can decode it and every option of where its prompt is
computed (on d, or on a prefill worker p), with phi(z) = z up to 1 and 1 + 8 (z - 1) beyond:

    J = phi(z) (1 + followers z), z = TTFT / SLO         the request, and those who queue behind it
      + phi(TPOT / SLO)
      + sum over d's and p's residents of what their own phi(TPOT / SLO) rises by
      + rho / (1 - rho) T_p / TTFT SLO                   the price of prefill, rho of it in use

A worker that spends the share s of its time on prefill gives its sequences a token each
ITL(B, K) / (1 - s): prefill that runs beside a batch costs the batch exactly its time. B and K are
of the time at which the prompt will have been computed. Costs are of cautious times, which `margin`
has lengthened; forecasts are of the times that are expected.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from router.candidates import Candidate
from router.outlook import warm
from router.policies.objectives import FULL
from router.policies.offers import COST, Offer, Offers, Weights, explained
from router.policies.policy import Pair, RequestFacts
from router.policies.uncached_tokens import uncached_tokens
from wire.cluster import Mode
from wire.messages import Role

_NUM_SCORED = 16  # least loaded workers of a large pool, and as many with hits
_NUM_EXPLAINED = 4
_TIE = 1.03


@dataclass(frozen=True, slots=True)
class Predicted(Weights):
    """The rule, with its weights."""

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
        """The chosen pair, then the best of the others; empty while a worker is cold, and where
        the mode allows no pair."""
        workers, queued_s, squares = (*prefill, *decode), 0.0, 0.0
        for worker in workers:
            if worker.outlook is None:
                return ()
            queue_s = worker.outlook.queue_s
            queued_s += queue_s
            squares += queue_s * queue_s
        homes, makers = self._parts(facts, prefill, decode)
        homes, makers = _pruned(facts, homes, _by_batch), _pruned(facts, makers, _by_queue)
        busy = sum(map(_busy, prefill)) / max(1, len(prefill))
        price, over_s = busy / (1 - busy), squares / queued_s if queued_s > 0 else 0.0
        ahead_s = _ahead_s(facts, prefill)
        offers = Offers(self, facts, price, workers, ahead_s, over_s)
        maker_ids = {worker.worker_id for worker in makers}
        for worker in homes:
            offers.weigh(worker, True, worker.worker_id in maker_ids)
            maker_ids.discard(worker.worker_id)
        for worker in makers:
            if worker.worker_id in maker_ids:
                offers.weigh(worker, False, True)
        found = offers.all()
        return _chosen_first(facts, found, rng) if found else ()

    def _parts(
        self, facts: RequestFacts, prefill: Sequence[Candidate], decode: Sequence[Candidate]
    ) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
        """Who may decode, and who may compute prompts."""
        if facts.mode is Mode.DISAGGREGATED:
            return (decode if facts.num_left_tokens > 1 else prefill), prefill
        homes = (*decode, *prefill) if self.anywhere & 1 else decode
        return homes, (*prefill, *decode) if self.anywhere & 2 else prefill


def _busy(worker: Candidate) -> float:
    prefills = warm(worker.outlook).prefill_share
    return prefills if prefills < FULL else FULL


def _ahead_s(facts: RequestFacts, prefill: Sequence[Candidate]) -> float:
    """About how long until a prompt that comes now has been computed, none of it cached."""
    if not prefill:
        return 0.0
    return min(map(_by_queue, prefill)) + warm(prefill[0].outlook).costs.prefill_s(facts.num_tokens)


def _by_batch(worker: Candidate) -> float:
    return warm(worker.outlook).tpot_s


def _by_queue(worker: Candidate) -> float:
    return warm(worker.outlook).queue_s


def _pruned(
    facts: RequestFacts, workers: Sequence[Candidate], key: Callable[[Candidate], float]
) -> Sequence[Candidate]:
    """All of a small pool; of a large one the least loaded and those with the largest hits."""
    if len(workers) <= 2 * _NUM_SCORED:
        return workers
    hits: Mapping[str, float] = facts.held_blocks
    if facts.host_blocks:
        hits = {name: facts.weighed_blocks(name) for name in (*hits, *facts.host_blocks)}
    hitting = [worker for worker in workers if worker.worker_id in hits]
    hitting.sort(key=lambda worker: -hits[worker.worker_id])
    picked = (*hitting[:_NUM_SCORED], *sorted(workers, key=key)[:_NUM_SCORED])
    return list({worker.worker_id: worker for worker in picked}.values())


def _chosen_first(facts: RequestFacts, offers: list[Offer], rng: Random) -> Sequence[Pair]:
    """Ties go to the larger hit, then to the less costly of two random ones."""
    best = sorted(offers, key=COST)[:_NUM_EXPLAINED]
    limit = _TIE * best[0][0]
    equals = [offer for offer in best if offer[0] <= limit]
    if len(equals) > 1:
        hits = [_hit(facts, offer) for offer in equals]
        most = max(hits)
        equals = [offer for offer, hit in zip(equals, hits, strict=True) if hit == most]
        if len(equals) > 1:
            equals = _two_of(equals, rng)
    chosen = min(equals, key=COST)
    ranked = (chosen, *(offer for offer in best if offer is not chosen))
    return [explained(offer) for offer in ranked]


def _two_of(offers: list[Offer], rng: Random) -> list[Offer]:
    """As rng.sample, at a tenth of its time."""
    first = int(rng.random() * len(offers))
    second = int(rng.random() * (len(offers) - 1))
    return [offers[first], offers[second + (second >= first)]]


def _hit(facts: RequestFacts, offer: Offer) -> float:
    hit = facts.weighed_blocks
    source = offer[1] or offer[2]
    return hit(source.worker_id) + hit(offer[2].worker_id)
