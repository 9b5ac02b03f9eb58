"""The gateways' figures by PromQL from a Prometheus server, over its HTTP API."""

import math
from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec

from control_plane.observe.fetch import fetch
from control_plane.observe.reading import (
    ACCEPTED,
    COUNTERS,
    GOOD,
    RATIO,
    REFUSED,
    SENT,
    WAITING,
    Reading,
    ReadingError,
    traffic_of,
)
from control_plane.planner.types import PoolFigures, Traffic

_TIMEOUT_S = 5.0


class _Sample(msgspec.Struct):
    value: tuple[float, str]
    metric: dict[str, str] = {}


class _Data(msgspec.Struct):
    result: list[_Sample]


class _Reply(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


class PrometheusServer:
    """A TrafficSource. url: as http://prometheus:9090. window_s: of every rate; it must hold at
    least two scrapes. token: sent as a bearer token, where the server asks for one."""

    def __init__(self, url: str, window_s: float, token: str = "") -> None:
        self._url = url.rstrip("/")
        self._window_s = max(1, round(window_s))
        self._window = f"{self._window_s}s"
        self._token = token
        self._traffic: Traffic | None = None

    async def read(self) -> Reading:
        """Raises ReadingError: no answer, no PromQL, or no gateway that is scraped."""
        found = await self.query(self._expressions())
        age_s = found.get("age")
        if age_s is None:
            raise ReadingError(f"{self._url} has no {ACCEPTED}: it scrapes no gateway")
        rates = {name: found.get(name, 0.0) for name in COUNTERS}
        waiting = int(found.get(WAITING, 0))
        self._traffic = traffic_of(rates, waiting, age_s, self._traffic)
        return Reading(
            self._traffic,
            self._figures("ttft", found, age_s),
            self._figures("tpot", found, age_s),
            found.get(SENT) or math.nan,
            found.get(GOOD, math.nan),
            self._window_s * found.get(REFUSED, 0.0),
        )

    def _figures(self, objective: str, found: Mapping[str, float], age_s: float) -> PoolFigures:
        count = self._window_s * found.get(f"{objective}_count", 0.0)
        return PoolFigures(found.get(objective), found.get(f"{objective}_met"), age_s, count)

    async def query(self, expressions: Mapping[str, str]) -> dict[str, float]:
        """The values of PromQL expressions of at most one element each, by name, all of one
        moment. What has no value, or NaN, is left out."""
        named = (
            f'label_replace({promql}, "figure", "{name}", "", "")'
            for name, promql in expressions.items()
        )
        query = urlencode({"query": " or ".join(named)})
        body = await fetch(f"{self._url}/api/v1/query?{query}", _TIMEOUT_S, self._token)
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except msgspec.DecodeError as error:
            raise ReadingError(f"{self._url} does not answer like Prometheus: {error}") from error
        if reply.data is None:
            raise ReadingError(f"{self._url} refused the query: {reply.error}")
        values = {
            sample.metric.get("figure", ""): float(sample.value[1]) for sample in reply.data.result
        }
        return {name: value for name, value in values.items() if not math.isnan(value)}

    async def close(self) -> None:
        """Nothing is kept open."""

    def _expressions(self) -> dict[str, str]:
        window = self._window
        queries = {name: f"sum(rate({name}[{window}]))" for name in COUNTERS}
        queries[REFUSED] = f"sum(rate({REFUSED}[{window}]))"
        queries[SENT] = f"sum(rate({SENT}[{window}]))"
        queries[GOOD] = f'sum(rate({GOOD}{{met="both"}}[{window}]))'
        queries[WAITING] = f"sum({WAITING})"
        queries["age"] = f"time() - max(timestamp({ACCEPTED}))"
        for objective in ("ttft", "tpot"):
            labels = f'objective="{objective}",kind="measured"'
            by_bound = f"sum by (le) (rate({RATIO}{{{labels}}}[{window}]))"
            queries[objective] = f"histogram_quantile(0.9, {by_bound})"
            met = f'sum(rate({RATIO}{{{labels},le="1.0"}}[{window}]))'
            all_of = f'sum(rate({RATIO}{{{labels},le="+Inf"}}[{window}]))'
            queries[f"{objective}_met"] = f"{met} / {all_of}"
            queries[f"{objective}_count"] = all_of
        return queries
