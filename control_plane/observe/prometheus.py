"""The gateways' figures by PromQL from a Prometheus server, over its HTTP API."""

import asyncio
import math
from urllib.parse import quote

import msgspec

from control_plane.observe.fetch import fetch
from control_plane.observe.reading import (
    ACCEPTED,
    COUNTERS,
    OUTPUT,
    RATIO,
    WAITING,
    Reading,
    ReadingError,
    traffic_of,
)
from control_plane.planner.types import PoolFigures, Traffic

_TIMEOUT_S = 5.0


class _Sample(msgspec.Struct):
    value: tuple[float, str]


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
        self._window = f"{max(1, round(window_s))}s"
        self._token = token
        self._traffic: Traffic | None = None

    async def read(self) -> Reading:
        """Raises ReadingError: no answer, no PromQL, or no gateway that is scraped."""
        queries = self._queries()
        values = await asyncio.gather(*(self.query(query) for query in queries.values()))
        found = dict(zip(queries, values, strict=True))
        age_s = found["age"]
        if age_s is None:
            raise ReadingError(f"{self._url} has no {ACCEPTED}: it scrapes no gateway")
        rates = {name: found[name] or 0.0 for name in COUNTERS}
        waiting = int(found[WAITING] or 0)
        self._traffic = traffic_of(rates, waiting, age_s, self._traffic)
        return Reading(
            self._traffic,
            PoolFigures(found["ttft"], found["ttft_met"], age_s),
            PoolFigures(found["tpot"], found["tpot_met"], age_s),
            found[OUTPUT] or 0.0,
        )

    async def query(self, promql: str) -> float | None:
        """The value of an instant vector of at most one element; None for none and for NaN."""
        url = f"{self._url}/api/v1/query?query={quote(promql)}"
        body = await fetch(url, _TIMEOUT_S, self._token)
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except msgspec.DecodeError as error:
            raise ReadingError(f"{self._url} does not answer like Prometheus: {error}") from error
        if reply.status != "success" or reply.data is None:
            raise ReadingError(f"{self._url} refused {promql}: {reply.error}")
        if not reply.data.result:
            return None
        value = float(reply.data.result[0].value[1])
        return None if math.isnan(value) else value

    async def close(self) -> None:
        """Nothing is kept open."""

    def _queries(self) -> dict[str, str]:
        window = self._window
        queries = {name: f"sum(rate({name}[{window}]))" for name in COUNTERS}
        queries[WAITING] = f"sum({WAITING})"
        queries["age"] = f"time() - max(timestamp({ACCEPTED}))"
        for objective in ("ttft", "tpot"):
            labels = f'objective="{objective}",kind="measured"'
            by_bound = f"sum by (le) (rate({RATIO}{{{labels}}}[{window}]))"
            queries[objective] = f"histogram_quantile(0.9, {by_bound})"
            met = f'sum(rate({RATIO}{{{labels},le="1.0"}}[{window}]))'
            all_of = f'sum(rate({RATIO}{{{labels},le="+Inf"}}[{window}]))'
            queries[f"{objective}_met"] = f"{met} / {all_of}"
        return queries
