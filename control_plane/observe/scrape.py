"""The gateways' figures, read from their own /metrics where no Prometheus is configured."""

import asyncio
from collections.abc import Sequence

from control_plane.observe.exposition import TrafficWindow
from control_plane.observe.fetch import fetch
from control_plane.observe.reading import Reading, ReadingError
from runtime.clock import Clock
from runtime.log import get_logger

_TIMEOUT_S = 2.0
_log = get_logger("control_plane")


class Scrape:
    """A TrafficSource. urls: every gateway's /metrics. window_s: over how long rates are taken."""

    def __init__(self, urls: Sequence[str], clock: Clock, window_s: float) -> None:
        self._urls = tuple(urls)
        self._clock = clock
        self._window = TrafficWindow(window_s)

    async def read(self) -> Reading:
        """Raises ReadingError where no gateway answers. Some answering counts as fresh."""
        replies = await asyncio.gather(
            *(fetch(url, _TIMEOUT_S) for url in self._urls), return_exceptions=True
        )
        bodies, failures = {}, []
        for url, reply in zip(self._urls, replies, strict=True):
            if isinstance(reply, ReadingError):
                failures.append(str(reply))
            elif isinstance(reply, BaseException):
                raise reply
            else:
                bodies[url] = reply
        if not bodies:
            raise ReadingError(failures[0] if failures else "no gateway is known")
        for failure in failures:
            _log.warning("a gateway was not read", reason=failure)
        return self._window.reading(self._clock.now(), bodies)

    async def close(self) -> None:
        """Nothing is kept open."""
