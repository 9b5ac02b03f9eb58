"""Other policies beside the live one: what they would have chosen, and what that would change."""

import asyncio
from collections.abc import Sequence
from random import Random

from router.candidates import ClusterView
from router.placement import Placement, place
from router.policies.named import policy_named
from router.policies.policy import Forecast, PairPolicy, RequestFacts
from runtime.log import get_logger
from runtime.metrics import Metrics

_log = get_logger("router")


class Shadows:
    """Asks each shadow policy about a share of the placements, after the live one has gone out.

    All are judged by one yardstick, the forecasts of `predicted`, while its predictors are warm.
    A shadow has random numbers of its own, so that the live policy's ties fall as without it.
    """

    def __init__(
        self,
        policies: Sequence[str],
        share: float,
        local_prefill_max_tokens: int,
        rng: Random,
        metrics: Metrics,
    ) -> None:
        """Raises ValueError for a policy that does not exist, or a share outside 0 .. 1."""
        if not 0 <= share <= 1:
            raise ValueError(f"the shadow policies' share must be in 0 .. 1, is {share}")
        self._policies = {name: policy_named(name) for name in policies}
        self._share = share
        self._local_max = local_prefill_max_tokens
        self._rng = rng
        self._metrics = metrics
        yardstick = policy_named("predicted")
        assert isinstance(yardstick, PairPolicy), "`predicted` weighs pairs"
        self._yardstick = yardstick
        self._owed = 0.0

    def placed(self, live: Placement, facts: RequestFacts, view: ClusterView) -> None:
        """A live decision was made; it goes out before the shadows are asked."""
        self._owed += self._share
        if self._owed >= 1:
            self._owed -= 1
            asyncio.get_running_loop().call_soon(self._ask_all, live, facts, view)

    def _ask_all(self, live: Placement, facts: RequestFacts, view: ClusterView) -> None:
        for name in self._policies:
            try:
                self.ask(name, live, facts, view)
            except Exception:  # a policy on trial costs no request anything
                _log.exception("a shadow policy failed", policy=name)

    def ask(self, name: str, live: Placement, facts: RequestFacts, view: ClusterView) -> None:
        """Counts one answer of a shadow, whether it agrees, and what it would gain."""
        policy = self._policies[name]
        other = place(facts, view, policy, self._rng, self._local_max)
        self._metrics.counter("baton_shadow_placements_total", policy=name).inc()
        if other is None or (other.prefill, other.decode) == (live.prefill, live.decode):
            return
        for part, differs in (
            ("prefill", other.prefill != live.prefill),
            ("decode", other.decode != live.decode),
        ):
            if differs:
                self._metrics.counter(
                    "baton_shadow_disagreements_total", policy=name, part=part
                ).inc()
        ours, theirs = self._forecast(live, facts, view), self._forecast(other, facts, view)
        if ours is not None and theirs is not None:
            self._note(name, "ttft", theirs.ttft_s - ours.ttft_s)
            self._note(name, "tpot", theirs.tpot_s - ours.tpot_s)

    def _note(self, name: str, stage: str, difference_s: float) -> None:
        direction = "sooner" if difference_s < 0 else "later"
        self._metrics.counter(
            "baton_shadow_difference_seconds_total", policy=name, stage=stage, direction=direction
        ).inc(abs(difference_s))

    def _forecast(
        self, placement: Placement, facts: RequestFacts, view: ClusterView
    ) -> Forecast | None:
        """What the yardstick expects of a pair; None while a predictor is cold."""
        by_id = {worker.worker_id: worker for worker in (*view.prefill, *view.decode)}
        home = by_id[placement.decode]
        sources = [] if placement.prefill is None else [by_id[placement.prefill]]
        if any(worker.outlook is None for worker in (home, *sources)):
            return None
        for pair in self._yardstick.rank(facts, sources, [home], self._rng):
            source = None if pair.prefill is None else pair.prefill.worker_id
            if (source, pair.decode.worker_id) == (placement.prefill, placement.decode):
                return pair.forecast
        return None
