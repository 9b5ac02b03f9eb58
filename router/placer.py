"""Places requests on the live cluster: gathers the facts, asks the policy, notes the outcome."""

from collections.abc import Callable
from random import Random
from typing import Protocol

from router.affinity import ModelViews, SessionHomes, at_home
from router.breaker import CircuitBreaker
from router.candidates import ClusterView
from router.config import RouterConfig
from router.placement import Placement, place
from router.policies.named import policy_named
from router.policies.policy import Pair, RequestFacts
from router.prefix_map import PrefixMap
from router.prospects import Prospects
from runtime.clock import Clock
from wire.messages import GenerateRequest


class Pools(Protocol):
    """Who knows the workers of the moment: the live sessions, or a simulation."""

    def view(self) -> ClusterView: ...


class Placer:
    """The edge around the pure `place`: owns the ordinal of placements."""

    def __init__(
        self,
        config: RouterConfig,
        sessions: Pools,
        prefix_map: PrefixMap,
        clock: Clock,
        rng: Random,
        breaker: CircuitBreaker | None = None,
        prospects: Prospects | None = None,
        tell: Callable[[Placement, RequestFacts, ClusterView, str], None] | None = None,
        homes: SessionHomes | None = None,
    ) -> None:
        """tell: hears of every placement: for which view, and of which session."""
        self._tell = tell
        self._config = config
        self._sessions = sessions
        self._prefix_map = prefix_map
        self._clock = clock
        self._rng = rng
        self._policy = policy_named(config.policy)
        self._breaker = breaker
        self._prospects = prospects
        self._ordinal = 0
        self._models = ModelViews()
        self.homes = SessionHomes(config.session_ttl_s) if homes is None else homes

    def place(
        self,
        request: GenerateRequest,
        num_sent: int,
        excluded: frozenset[tuple[str, int]],
        waited_s: float = 0.0,
    ) -> tuple[Placement, RequestFacts] | None:
        """Where the request runs next; None while no worker takes it.

        Excluded workers are asked again when only they are left. Raises BatonError OVERLOADED for a
        new request that is predicted to miss its objectives. waited_s: since it arrived.
        """
        terms = request.terms
        view = self._models.of(self._sessions.view(), terms.model)
        if not view.prefill and not view.decode:
            return None
        now_s = self._clock.now()
        if self._breaker is not None:
            excluded |= self._breaker.open_workers(now_s)
        self._prefix_map.expire(now_s)
        match = self._prefix_map.match(request.block_hashes)
        facts = RequestFacts(
            num_tokens=len(request.prompt_tokens) + num_sent,
            num_left_tokens=request.sampling.max_tokens - num_sent,
            ordinal=self._ordinal,
            held_blocks=match.held,
            confirmed_blocks=match.confirmed,
            host_blocks=match.host,
            excluded=_useful_exclusions(excluded, view),
            block_hashes=request.block_hashes,
            ttft_slo_s=self.ttft_slo_s(request),
            tpot_slo_s=terms.tpot_slo_s or self._config.tpot_slo_ms / 1e3,
            links=view.links,
            waited_s=waited_s,
            now_s=now_s,
            mode=view.mode,
            append_tokens=self._config.local_prefill_max_tokens,
        )
        local_max = self._config.local_prefill_max_tokens
        placement = place(facts, view, self._policy, self._rng, local_max)
        if placement is None:
            return None
        if terms.session and (home := self.homes.home(terms.session, now_s)):
            placement = at_home(placement, facts, view, home)
        if num_sent == 0 and placement.ranking:
            self._refuse_hopeless(request, placement.ranking[0], facts)
        self._ordinal += 1
        if terms.session:
            self.homes.ran(terms.session, placement.decode, now_s)
        expires_at_s = now_s + self._config.speculative_ttl_s
        chosen = dict.fromkeys((placement.prefill or placement.decode, placement.decode))
        self._prefix_map.speculate(chosen, request.block_hashes, expires_at_s)
        if self._tell is not None:
            self._tell(placement, facts, view, terms.session)
        return placement, facts

    def ttft_slo_s(self, request: GenerateRequest) -> float:
        """The request's objective of the time to the first token, its own or the router's."""
        if request.terms.ttft_slo_s:
            return request.terms.ttft_slo_s
        config = self._config
        long_tokens = max(0, len(request.prompt_tokens) - config.ttft_slo_tokens)
        return (config.ttft_slo_ms + config.ttft_slo_token_ms * long_tokens) / 1e3

    def _refuse_hopeless(self, request: GenerateRequest, pair: Pair, facts: RequestFacts) -> None:
        if self._prospects is None:
            return
        terms, priority = request.terms, request.priority
        is_stated = self._config.states_slos or terms.ttft_slo_s > 0 or terms.tpot_slo_s > 0
        refusal = self._prospects.refusal(
            pair.forecast,
            facts.ttft_slo_s,
            facts.tpot_slo_s,
            priority,
            pair.decode.outlook,
            facts.waited_s,
            is_stated,
            pair.spread_s,
        )
        if refusal is not None:
            raise refusal


def _useful_exclusions(
    excluded: frozenset[tuple[str, int]], view: ClusterView
) -> frozenset[tuple[str, int]]:
    if not excluded:
        return excluded
    live = {(found.worker_id, found.epoch) for found in (*view.prefill, *view.decode)}
    return frozenset() if excluded >= live else excluded
