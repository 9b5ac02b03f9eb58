"""Totals that only grow, kept for a while, and the rates that they make."""

from collections import deque
from collections.abc import Mapping, Sequence

from dashboard.exposition import GOODPUT, IN_FLIGHT, OUTPUT, QUEUED, REFUSED, REQUESTS, Figures
from dashboard.shapes import GatewayHealth, PairExposure, TrafficView

RATE_WINDOW_S = 15.0
ATTAINMENT_WINDOW_S = 60.0


class TrafficMeter:
    """One look a poll. A gateway that restarted or came back counts from then on."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[str, Figures]]] = deque()

    def view(
        self,
        at_s: float,
        wall_s: float,
        figures: Mapping[str, Figures],
        gateways: Sequence[GatewayHealth] = (),
        pairs: Sequence[PairExposure] = (),
    ) -> TrafficView:
        """figures: by gateway. at_s: of a clock that does not jump; wall_s: since 1970."""
        self._looks.append((at_s, figures))
        while len(self._looks) > 2 and self._looks[1][0] <= at_s - ATTAINMENT_WINDOW_S:
            self._looks.popleft()
        _, met, ttft, tpot, ended = self._answers(at_s, ATTAINMENT_WINDOW_S)
        seconds, met_now, _, _, _ = self._answers(at_s, RATE_WINDOW_S)
        sums = [one.sums for one in figures.values()]
        errors: dict[str, float] = {}
        for one in figures.values():
            errors |= one.step_errors
        return TrafficView(
            at_s=wall_s,
            gateways=list(gateways),
            requests_s=self._rate(at_s, REQUESTS),
            goodput_s=met_now / seconds if seconds else None,
            output_tokens_s=self._rate(at_s, OUTPUT),
            refused_s=self._rate(at_s, REFUSED),
            ttft_attained=ttft / ended if ended else None,
            tpot_attained=tpot / ended if ended else None,
            queued=sum(one.get(QUEUED, 0.0) for one in sums) if sums else None,
            in_flight=sum(one.get(IN_FLIGHT, 0.0) for one in sums) if sums else None,
            step_errors=errors,
            pairs=list(pairs),
        )

    def _rate(self, at_s: float, name: str) -> float | None:
        seconds, growth = self._growth(at_s, RATE_WINDOW_S)
        return growth.get(name, 0.0) / seconds if seconds else None

    def _answers(self, at_s: float, window_s: float) -> tuple[float, float, float, float, float]:
        """Seconds looked at, and answers that met both, TTFT, TPOT, and all that ended."""
        seconds, growth = self._growth(at_s, window_s)
        both, ttft, tpot, none = (
            growth.get(f"{GOODPUT}|{met}", 0.0) for met in ("both", "ttft", "tpot", "none")
        )
        return seconds, both, both + ttft, both + tpot, both + ttft + tpot + none

    def _growth(self, at_s: float, window_s: float) -> tuple[float, dict[str, float]]:
        """Seconds between the looks compared, and how much each total grew between them."""
        inside = [look for look in self._looks if look[0] >= at_s - window_s]
        if len(inside) < 2:
            return 0.0, {}
        (first_s, before), (last_s, now) = inside[0], inside[-1]
        grown: dict[str, float] = {}
        for gateway, figures in now.items():
            old = before.get(gateway)
            if old is None:
                continue
            for name, value in figures.sums.items():
                grown[name] = grown.get(name, 0.0) + max(0.0, value - old.sums.get(name, 0.0))
        return last_s - first_s, grown
