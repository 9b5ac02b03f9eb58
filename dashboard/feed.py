"""Asks the gateways again and again: what they serve, and how their requests ran."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dashboard.exposition import Figures, read_figures
from dashboard.exposures import Transfer, exposures
from dashboard.listeners import Listeners
from dashboard.shapes import GatewayHealth, RequestsView, TrafficView
from dashboard.traffic import TrafficMeter
from dashboard.upstream import Upstream, UpstreamError
from runtime.clock import Clock
from runtime.log import get_logger

POLL_S = 2.0
_IDLE_POLL_S = 5.0  # nobody looks: enough for the history
_SHOWN = 40
_LATEST = 400
_KEPT_S = 6 * 3600.0
_log = get_logger("dashboard")

Trace = tuple[Transfer, msgspec.Raw]


class GatewayFeed:
    """run() polls until it is cancelled, and publishes `traffic` and `requests`.

    wall_s: seconds since 1970.
    """

    def __init__(
        self,
        gateways: Sequence[str],
        key: str,
        upstream: Upstream,
        listeners: Listeners,
        clock: Clock,
        wall_s: Callable[[], float],
    ) -> None:
        self._gateways = tuple(gateways)
        self._key = key
        self._upstream = upstream
        self._listeners = listeners
        self._clock = clock
        self._wall_s = wall_s
        self._meter = TrafficMeter()
        self._samples: deque[TrafficView] = deque()

    @property
    def samples(self) -> Sequence[TrafficView]:
        """Of the last six hours, the oldest first."""
        return self._samples

    async def run(self) -> None:
        while True:
            try:
                await self.poll()
            except Exception:  # a task's edge: the next look comes
                _log.exception("a look at the gateways failed")
            await asyncio.sleep(POLL_S if self._listeners.is_heard else _IDLE_POLL_S)

    async def poll(self) -> None:
        """One look at every gateway."""
        found = await asyncio.gather(*map(self._figures, self._gateways))
        figures = {url: one for url, one in zip(self._gateways, found, strict=True) if one}
        health = [self._health(url, url in figures) for url in self._gateways]
        latest: list[Trace] = []
        if self._listeners.is_heard:
            latest = await self._publish_requests(tuple(figures))
        view = self._meter.view(
            self._clock.now(),
            self._wall_s(),
            figures,
            health,
            exposures(transfer for transfer, _ in latest),
        )
        self._remember(view)
        self._listeners.publish("traffic", view)

    async def find(self, request_id: str) -> bytes | None:
        """The trace of one request from whichever gateway has it. Raises UpstreamError where
        none has it and one does not answer."""
        failed: UpstreamError | None = None
        headers = self._headers()
        for url in self._gateways:
            try:
                answer = await self._upstream.ask(
                    "GET", f"{url}/debug/requests/{request_id}", headers=headers
                )
            except UpstreamError as error:
                failed = error
                continue
            if answer.status_code == 200:
                return answer.content
            if answer.status_code != 404:
                failed = UpstreamError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
        if failed is not None:
            raise failed
        return None

    async def _figures(self, url: str) -> Figures | None:
        try:
            return read_figures((await self._upstream.get(f"{url}/metrics")).decode())
        except (UpstreamError, ValueError) as error:
            _log.debug("no figures of a gateway", url=url, reason=str(error))
            return None

    async def _publish_requests(self, gateways: Sequence[str]) -> list[Trace]:
        slowest, latest = [], []
        try:
            for url in gateways:
                slowest += await self._traces(url, "slowest", _SHOWN)
                latest += await self._traces(url, "latest", _LATEST)
        except UpstreamError as error:
            self._listeners.publish("requests", RequestsView(note=str(error)))
            return []
        slowest.sort(key=lambda trace: -trace[0].slowness_s)
        view = RequestsView(
            slowest=[raw for _, raw in slowest[:_SHOWN]],
            latest=[raw for _, raw in latest[:_SHOWN]],
        )
        self._listeners.publish("requests", view)
        return latest

    async def _traces(self, url: str, order: str, limit: int) -> list[Trace]:
        params = {"order": order, "limit": str(limit)}
        body = await self._upstream.get(f"{url}/debug/requests", self._key, params)
        try:
            rows = msgspec.json.decode(body, type=dict[str, list[msgspec.Raw]])["requests"]
            return [(msgspec.json.decode(row, type=Transfer), row) for row in rows]
        except (msgspec.DecodeError, KeyError) as error:
            raise UpstreamError(f"{url} lists no requests: {error}") from error

    def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _health(self, url: str, has_answered: bool) -> GatewayHealth:
        return GatewayHealth(url=url, error="" if has_answered else "it does not answer")

    def _remember(self, view: TrafficView) -> None:
        lean = msgspec.structs.replace(view, pairs=[], step_errors={}, gateways=[])
        self._samples.append(lean)
        while self._samples[0].at_s < view.at_s - _KEPT_S:
            self._samples.popleft()
