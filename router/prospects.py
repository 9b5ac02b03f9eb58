"""Refuses what is predicted to miss its objectives, before prefill is spent on it. Pure."""

import math
from dataclasses import dataclass

from router.outlook import Outlook
from router.policies.policy import Forecast
from wire.errors import BatonError, ErrorCode

_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0
_MAX_CLASS = 8
_UNATTAINABLE = 3.0  # times what an empty worker gives, where that misses the objective
_LOAD_WEIGHT = (
    3.0  # a margin counts in full from 1.5 x an empty worker's pace on, for that keeps it
)
_STATED_RATIO = 1.0
_DEFAULT_RATIO = 3.0


@dataclass(frozen=True, slots=True)
class Prospects:
    """Judges a request by the forecast of its best pair.

    max_ratio: of predicted over objective, for class 0; each class above it (a lower number)
    doubles that, each below halves it, so that lower classes are shed first. 0 refuses nothing;
    below 0: 1 for objectives that somebody stated, 3 for the defaults. answer_tokens: the mean
    answer, by which a batch thins out. Only load is refused for: where an empty worker would miss
    the objective as well, three times what it would give takes the objective's place.
    """

    max_ratio: float = -1.0
    answer_tokens: float = 200.0

    def refusal(
        self,
        forecast: Forecast,
        ttft_slo_s: float,
        tpot_slo_s: float,
        priority: int,
        decode: Outlook | None = None,
        waited_s: float = 0.0,
        is_stated: bool = False,
        spread_s: float = 0.0,
    ) -> BatonError | None:
        """OVERLOADED with the time until the objective can be met again, or None.

        decode: of the worker that is to decode. waited_s: of the time to its first token that has
        passed. is_stated: the objectives are the request's own, or the operator's. spread_s: as
        Pair has it; no margin of the decode steps applies to it.
        """
        limit = self._limit(priority, is_stated)
        if limit <= 0:
            return None
        ttft_s, alone_s = waited_s + forecast.ttft_s, forecast.ttft_s - forecast.queue_s
        late_s = ttft_s - _allowed_s(limit, ttft_slo_s, alone_s)
        if late_s > 0:
            return overloaded(f"rejected: first token in {ttft_s:.1f} s", late_s)
        tpot_s, alone_s = forecast.tpot_s, 0.0
        if decode is not None:
            alone_s = decode.costs.itl_s(1, 0)
            pace_s = tpot_s - spread_s
            tpot_s += (decode.pace_margin - 1) * min(pace_s, _LOAD_WEIGHT * (pace_s - alone_s))
        allowed_s = _allowed_s(limit, tpot_slo_s, alone_s)
        if tpot_s > allowed_s:
            message = f"rejected: {1e3 * tpot_s:.0f} ms a token are predicted"
            return Crowded(message, self._drain_s(tpot_s, allowed_s), -late_s)
        return None

    def _limit(self, priority: int, is_stated: bool) -> float:
        ratio = self.max_ratio
        if ratio < 0:
            ratio = _STATED_RATIO if is_stated else _DEFAULT_RATIO
        return ratio * 2.0 ** -max(-_MAX_CLASS, min(_MAX_CLASS, priority))

    def _drain_s(self, tpot_s: float, allowed_s: float) -> float:
        """Until enough answers have ended for a token to take allowed_s."""
        return self.answer_tokens * tpot_s * math.log(tpot_s / allowed_s)


class Crowded(BatonError):
    """Every batch is too large at present. slack_s: how long the request can still wait for room
    and meet its objective of the first token."""

    def __init__(self, message: str, drain_s: float, slack_s: float) -> None:
        super().__init__(ErrorCode.OVERLOADED, message, retry_after_s=_retry_s(drain_s))
        self.slack_s = slack_s


def _allowed_s(limit: float, slo_s: float, alone_s: float) -> float:
    """alone_s: what the request would take on an empty worker."""
    allowed_s = limit * slo_s
    return max(allowed_s, _UNATTAINABLE * alone_s) if alone_s > slo_s else allowed_s


def overloaded(message: str, drain_s: float) -> BatonError:
    """What a client is answered that should come back in drain_s, 1 to 60 s."""
    return BatonError(ErrorCode.OVERLOADED, message, retry_after_s=_retry_s(drain_s))


def _retry_s(drain_s: float) -> float:
    return min(_MAX_RETRY_S, max(_MIN_RETRY_S, drain_s))
