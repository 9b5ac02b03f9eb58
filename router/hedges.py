"""When a request is placed a second time, and how much of that the workers are asked to bear."""

from collections.abc import Callable

from router.policies.policy import Forecast
from router.sorted_window import SortedWindow
from runtime.metrics import Metrics

_QUANTILE = 0.95
_NUM_RATIOS = 256  # first tokens that tell how far beyond its forecast a late one is
_LEAST_RATIOS = 16
_FIRST_RATIO = 2.0  # until there are as many
_MOST_SAVED = 10.0  # second placements that a quiet time saves up
_MAX_LEVEL = 0.8  # of saturation


class Hedges:
    """The budget of second placements, and from when on a first token is late.

        first placement --wait_s without a token--> begin() --budget--> two attempts run
        two attempts --one gives a token, both fail, or the client leaves--> end()

    Each first placement earns `share` of a second one, ten at most are saved up; of the requests
    under way the same share may run twice at a time, one always may; and nobody does while the
    workers are over 80 % saturated. Every begin() that says yes is followed by one end().
    """

    def __init__(
        self,
        factor: float,
        min_s: float,
        share: float,
        num_under_way: Callable[[], int],
        saturation: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        """factor: of the forecast's p95 that is waited, 0: nothing is ever late. min_s: the least
        wait. Raises ValueError for a factor or a share that is none."""
        if factor < 0 or not 0 <= share <= 1:
            raise ValueError(f"hedge {factor}, hedge_share {share}: at least 0, and 0 to 1")
        self._factor = factor
        self._min_s = min_s
        self._share = share
        self._num_under_way = num_under_way
        self._saturation = saturation
        self._metrics = metrics
        self._ratios = SortedWindow(_NUM_RATIOS)  # actual / predicted
        self._saved = 1.0
        self._num_running = 0

    @property
    def num_running(self) -> int:
        """Requests that run twice at present."""
        return self._num_running

    def placed(self, forecast: Forecast) -> float:
        """A request was placed for the first time; the seconds after which its token is late, 0:
        it never is."""
        if not self._factor:
            return 0.0
        self._saved = min(_MOST_SAVED, self._saved + self._share)
        ratio = _FIRST_RATIO
        if len(self._ratios) >= _LEAST_RATIOS:
            ratio = max(1.0, self._ratios.at_share(_QUANTILE))
        return max(self._min_s, self._factor * ratio * forecast.ttft_s)

    @property
    def retry_s(self) -> float:
        """After which a request that was refused here asks again."""
        return max(self._min_s, 0.1)

    def first_came(self, forecast: Forecast, taken_s: float) -> None:
        """A first token took so long; or at least so long, where another one was sooner."""
        if self._factor and forecast.ttft_s > 0:
            self._ratios.add(taken_s / forecast.ttft_s)

    def begin(self) -> bool:
        """Whether one more request may run twice, which counts from here on."""
        refused = self._refusal()
        if refused:
            self.refused(refused)
            return False
        self._saved -= 1
        self._num_running += 1
        return True

    def refused(self, reason: str) -> None:
        self._metrics.counter("baton_hedges_refused_total", reason=reason).inc()

    def end(self, outcome: str) -> None:
        """won: the second placement gave the first token. lost: the first one did. failed: both
        did. cancelled: the client did not wait. no_worker: there was none for a second one."""
        self._num_running -= 1
        if outcome == "no_worker":
            self._saved += 1
            self.refused(outcome)
        else:
            self._metrics.counter("baton_hedges_total", outcome=outcome).inc()

    def check_integrity(self) -> None:
        """Raises AssertionError when the budget was exceeded or an end was forgotten."""
        assert 0 <= self._saved <= _MOST_SAVED
        assert self._num_running >= 0

    def _refusal(self) -> str:
        if self._saved < 1 or self._num_running >= max(1, self._share * self._num_under_way()):
            return "budget"
        return "saturation" if self._saturation() > _MAX_LEVEL else ""
