"""Where sessions ran last, and which workers serve a model: constraints on placement. Pure."""

from collections import OrderedDict
from dataclasses import replace

from router.candidates import Candidate, ClusterView
from router.placement import Placement, place_pair
from router.policies.policy import Pair, RequestFacts

_MAX_SESSIONS = 100_000
_DEARER = 1.1  # of the best pair's cost, up to which a session's own worker is taken instead
_BUSIER = 1.25
_MORE_SEQS = 2
_MORE_WAITING_TOKENS = 1024


class SessionHomes:
    """The worker that a session's last request decoded on; sessions that come back keep it.

    The blocks of earlier turns draw a conversation home by themselves. This is for what they do
    not tell: short prompts, and turns whose blocks are still on their way.
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._homes: OrderedDict[str, tuple[str, float]] = OrderedDict()  # the oldest use first

    def __len__(self) -> int:
        return len(self._homes)

    def home(self, session: str, now_s: float) -> str:
        """Its worker id; empty: none, or too long ago."""
        worker_id, until_s = self._homes.get(session, ("", 0.0))
        return worker_id if until_s > now_s else ""

    def ran(self, session: str, worker_id: str, now_s: float) -> None:
        self._homes[session] = (worker_id, now_s + self._ttl_s)
        self._homes.move_to_end(session)
        while self._homes:
            oldest, (_, until_s) = next(iter(self._homes.items()))
            if until_s > now_s and len(self._homes) <= _MAX_SESSIONS:
                return
            del self._homes[oldest]


class ModelViews:
    """The part of the cluster that serves a model, worked out once for each view."""

    def __init__(self) -> None:
        self._view: ClusterView | None = None
        self._by_model: dict[str, ClusterView] = {}

    def of(self, view: ClusterView, model: str) -> ClusterView:
        """The view itself where every worker serves the model, or none is asked for."""
        if not model:
            return view
        if view is not self._view:
            self._view, self._by_model = view, {}
        found = self._by_model.get(model)
        if found is None:
            found = self._by_model[model] = _serving(view, model)
        return found


def at_home(placement: Placement, facts: RequestFacts, view: ClusterView, home: str) -> Placement:
    """The placement with the session's own worker to decode, unless that is clearly worse.

    Where pairs were predicted, worse is a cost 10 % over the best; else a longer queue, a batch a
    quarter larger, or fewer of the prompt's blocks.
    """
    if placement.decode == home:
        return placement
    if placement.ranking:
        return _pair_at_home(placement, facts, home)
    chosen = _find(view, placement.decode)
    own = _find(view, home)
    if chosen is None or own is None or own.role is not chosen.role:
        return placement
    if (own.worker_id, own.epoch) in facts.excluded or _is_worse(own, chosen, facts):
        return placement
    if placement.prefill is not None and own.group != chosen.group:
        return placement
    return replace(
        placement, decode=home, explanation=f"{placement.explanation}; its session's worker"
    )


def _pair_at_home(placement: Placement, facts: RequestFacts, home: str) -> Placement:
    """The ranking's best pair that decodes at home."""
    best = placement.ranking[0]
    for pair in placement.ranking[1:]:
        if pair.decode.worker_id == home and _is_near(pair, best):
            rest = tuple(other for other in placement.ranking if other is not pair)
            at_home = place_pair(facts, (pair, *rest))
            why = f"cost {pair.forecast.cost:.3f} at its session's worker"
            why = f"{why}; else {placement.explanation}"
            return replace(at_home, explanation=why, mode=placement.mode)
    return placement


def _is_near(pair: Pair, best: Pair) -> bool:
    return pair.forecast.cost <= _DEARER * best.forecast.cost


def _is_worse(own: Candidate, chosen: Candidate, facts: RequestFacts) -> bool:
    hit = facts.weighed_blocks
    return (
        hit(own.worker_id) < hit(chosen.worker_id)
        or own.num_seqs > max(_BUSIER * chosen.num_seqs, chosen.num_seqs + _MORE_SEQS)
        or own.waiting_tokens > chosen.waiting_tokens + _MORE_WAITING_TOKENS
    )


def _find(view: ClusterView, worker_id: str) -> Candidate | None:
    for candidate in (*view.decode, *view.prefill):
        if candidate.worker_id == worker_id:
            return candidate
    return None


def _serving(view: ClusterView, model: str) -> ClusterView:
    prefill = tuple(found for found in view.prefill if found.model in ("", model))
    decode = tuple(found for found in view.decode if found.model in ("", model))
    if len(prefill) == len(view.prefill) and len(decode) == len(view.decode):
        return view
    return replace(view, prefill=prefill, decode=decode)
