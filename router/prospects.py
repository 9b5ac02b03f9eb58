"""Refuses what is predicted to miss its objectives, before prefill is spent on it. Pure."""

import math
from dataclasses import dataclass

from router.outlook import Outlook
from router.policies.policy import Forecast
from wire.errors import BatonError, ErrorCode

_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0
_MAX_CLASS = 8


@dataclass(frozen=True, slots=True)
class Prospects:
    """Judges a request by the forecast of its best pair.

    max_ratio: of predicted over objective, for class 0; each class above it (a lower number)
    doubles that, each below halves it, so that lower classes are shed first. 0 refuses nothing.
    answer_tokens: the mean answer, by which a batch thins out. Only load is refused for: where an
    empty worker would miss the objective as well, what it would give takes the objective's place.
    """

    max_ratio: float
    answer_tokens: float = 200.0

    def refusal(
        self,
        forecast: Forecast,
        ttft_slo_s: float,
        tpot_slo_s: float,
        priority: int,
        decode: Outlook | None = None,
    ) -> BatonError | None:
        """OVERLOADED with the time until the objective can be met again, or None.

        decode: of the worker that is to decode, for its batch at the time when prefill has ended.
        """
        limit = self.max_ratio * 2.0 ** -max(-_MAX_CLASS, min(_MAX_CLASS, priority))
        if limit <= 0:
            return None
        late_s = forecast.ttft_s - limit * max(ttft_slo_s, forecast.ttft_s - forecast.queue_s)
        if late_s > 0:
            return overloaded(f"rejected: first token in {forecast.ttft_s:.1f} s", late_s)
        tpot_s, fastest_s = forecast.tpot_s, 0.0
        if decode is not None:
            tpot_s *= self._thinning(forecast.ttft_s, decode)
            fastest_s = (
                decode.margin * decode.costs.itl_s(1, 0) / max(0.05, 1 - decode.prefill_share)
            )
        allowed_s = limit * max(tpot_slo_s, fastest_s)
        if tpot_s > allowed_s:
            message = f"rejected: {1e3 * tpot_s:.0f} ms a token are predicted"
            return overloaded(message, self._drain_s(tpot_s, allowed_s))
        return None

    def _thinning(self, wait_s: float, decode: Outlook) -> float:
        """A token's time when prefill has ended, over that of the batch of this moment.

        Answers end at the rate 1 / (answer_tokens * tpot) each; what comes later is judged later.
        """
        if not decode.num_seqs or decode.tpot_s <= 0:
            return 1.0
        staying = math.exp(-wait_s / (self.answer_tokens * decode.tpot_s))
        num_seqs, context = decode.num_seqs, decode.context_tokens
        costs = decode.costs
        then_s = costs.itl_s(1, 0) + staying * (costs.itl_s(num_seqs, context) - costs.itl_s(0, 0))
        return then_s / (costs.itl_s(1, 0) + costs.itl_s(num_seqs, context) - costs.itl_s(0, 0))

    def _drain_s(self, tpot_s: float, allowed_s: float) -> float:
        """Until enough answers have ended for a token to take allowed_s."""
        return self.answer_tokens * tpot_s * math.log(tpot_s / allowed_s)


def overloaded(message: str, drain_s: float) -> BatonError:
    """What a client is answered that should come back in drain_s, 1 to 60 s."""
    retry_s = min(_MAX_RETRY_S, max(_MIN_RETRY_S, drain_s))
    return BatonError(ErrorCode.OVERLOADED, message, retry_after_s=retry_s)
