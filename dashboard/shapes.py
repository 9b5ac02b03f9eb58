"""What the dashboard's server tells the page, beside what it hands through from others.

Times are seconds since 1970; `_s` rates are per second, shares are of 1, null is not measured.
"""

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object that this server writes."""


class GatewayHealth(Shape, frozen=True, kw_only=True):
    """error: why this gateway's figures are missing, empty where they are there."""

    url: str
    error: str = ""


class PairExposure(Shape, frozen=True, kw_only=True):
    """What the latest requests from `source` to `target` waited for their KV, in milliseconds."""

    source: str
    target: str
    count: int
    exposed_p50_ms: float
    exposed_p90_ms: float
    transfer_p50_ms: float
    failures: int = 0


class TrafficView(Shape, frozen=True, kw_only=True):
    """An event `traffic`: what the gateways serve now. step_errors: worker id -> the median
    relative error of its predicted step times."""

    at_s: float
    gateways: list[GatewayHealth] = []
    requests_s: float | None = None
    goodput_s: float | None = None
    output_tokens_s: float | None = None
    refused_s: float | None = None
    ttft_attained: float | None = None
    tpot_attained: float | None = None
    queued: float | None = None
    in_flight: float | None = None
    step_errors: dict[str, float] = {}
    pairs: list[PairExposure] = []


class RequestsView(Shape, frozen=True, kw_only=True):
    """An event `requests`: traces as the gateways give them, the slowest and the latest first.

    note: why there are none, where they cannot be read.
    """

    slowest: list[msgspec.Raw] = []
    latest: list[msgspec.Raw] = []
    note: str = ""


class HistoryAnswer(Shape, frozen=True, kw_only=True):
    """GET /api/v1/history: the operator API's columns, and where they come from."""

    source: str
    step_s: float
    at_s: list[float]
    series: dict[str, list[float | None]]


class ErrorBody(Shape, frozen=True, kw_only=True):
    code: str
    message: str


class ErrorAnswer(Shape, frozen=True, kw_only=True):
    """The shape of the operator API's errors, for what this server itself refuses."""

    error: ErrorBody
