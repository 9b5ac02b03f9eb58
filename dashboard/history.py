"""The load of the last minutes as columns: from Prometheus, else from the control plane's ring."""

import asyncio
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec

from dashboard.shapes import HistoryAnswer, TrafficView
from dashboard.upstream import Upstream, UpstreamError

MAX_MINUTES = 360
_MAX_POINTS = 360
_STEP_S = 5.0
_NEAR_S = 6.0  # a sample of this server's own stands for a moment at most so far away
_OWN = ("requests_s", "goodput_s", "output_tokens_s", "ttft_attained", "tpot_attained")

_OF_ROLE = 'and on (instance) (baton_worker_info{{role="{role}"}} == 1)'
_KV_USE = 'sum(baton_worker_kv_blocks{{state="used"}} {of}) / sum(baton_worker_kv_blocks {of})'


def _expressions() -> dict[str, str]:
    found = {
        "requests_s": "sum(rate(baton_requests_accepted_total[1m]))",
        "uncached_tokens_s": "sum(rate(baton_uncached_tokens_total[1m]))",
        "output_tokens_s": "sum(rate(baton_output_tokens_total[1m]))",
        "goodput_s": 'sum(rate(baton_goodput_total{met="both"}[1m]))',
        "queue": "sum(baton_worker_waiting)",
        "running": "sum(baton_worker_running)",
    }
    for objective in ("ttft", "tpot"):
        met = f'sum(rate(baton_goodput_total{{met=~"both|{objective}"}}[1m]))'
        found[f"{objective}_attained"] = f"{met} / sum(rate(baton_goodput_total[1m]))"
    for role in ("prefill", "decode"):
        found[f"{role}_workers"] = f'max(baton_control_workers{{role="{role}"}})'
        found[f"{role}_recommended"] = f'max(baton_control_desired_workers{{role="{role}"}})'
        found[f"{role}_kv_use"] = _KV_USE.format(of=_OF_ROLE.format(role=role))
    return found


EXPRESSIONS: Mapping[str, str] = _expressions()  # series of the operator API -> PromQL


class _Matrix(msgspec.Struct):
    values: list[tuple[float, str]] = []


class _Data(msgspec.Struct):
    result: list[_Matrix] = []


class _Reply(msgspec.Struct):
    data: _Data | None = None
    error: str = ""


class PrometheusHistory:
    """Range queries over a Prometheus server's HTTP API."""

    def __init__(self, url: str, token: str, upstream: Upstream) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._upstream = upstream

    async def read(self, now_s: float, minutes: int) -> HistoryAnswer:
        """now_s: seconds since 1970. Raises UpstreamError."""
        step_s = max(_STEP_S, 60 * minutes / _MAX_POINTS)
        end_s = math.floor(now_s / step_s) * step_s
        count = int(60 * minutes / step_s)
        times = [end_s - step_s * i for i in reversed(range(count))]
        columns = await asyncio.gather(
            *(self._column(promql, times, step_s) for promql in EXPRESSIONS.values())
        )
        series = dict(zip(EXPRESSIONS, columns, strict=True))
        return HistoryAnswer(source="Prometheus", step_s=step_s, at_s=times, series=series)

    async def _column(
        self, promql: str, times: Sequence[float], step_s: float
    ) -> list[float | None]:
        params = {
            "query": promql,
            "start": f"{times[0]:.3f}",
            "end": f"{times[-1]:.3f}",
            "step": f"{step_s:g}",
        }
        url = f"{self._url}/api/v1/query_range"
        body = await self._upstream.get(url, self._token, params)
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except msgspec.DecodeError as error:
            raise UpstreamError(f"{url} does not answer like Prometheus: {error}") from error
        if reply.data is None:
            raise UpstreamError(f"{url} refused the query: {reply.error}")
        rows = reply.data.result[0].values if reply.data.result else []
        known = {round((at_s - times[0]) / step_s): float(value) for at_s, value in rows}
        values = (known.get(index) for index in range(len(times)))
        return [value if value is not None and math.isfinite(value) else None for value in values]


def with_own_samples(history: HistoryAnswer, samples: Sequence[TrafficView]) -> HistoryAnswer:
    """What the control plane did not measure, from what this server saw at the gateways."""
    times = [sample.at_s for sample in samples]
    near = [_nearest(times, at_s) for at_s in history.at_s]
    series = dict(history.series)
    for name in _OWN:
        column = series.get(name) or [None] * len(history.at_s)
        series[name] = [
            getattr(samples[index], name) if value is None and index is not None else value
            for value, index in zip(column, near, strict=True)
        ]
    return msgspec.structs.replace(history, series=series)


def _nearest(times: Sequence[float], at_s: float) -> int | None:
    """The index of the time next to at_s, None where none is near."""
    after = bisect_left(times, at_s)
    found = [index for index in (after - 1, after) if 0 <= index < len(times)]
    index = min(found, key=lambda i: abs(times[i] - at_s), default=None)
    return index if index is not None and abs(times[index] - at_s) <= _NEAR_S else None
