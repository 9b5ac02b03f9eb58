"""Virtual time: what happens next, in the order of its time, then of its making.

It is an asyncio event loop, so that the router's own tasks run in it; it has no sockets.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

_Entry = tuple[float, int, Callable[..., object], tuple[Any, ...]]


class EventLoop(asyncio.AbstractEventLoop):
    """The simulation's clock and agenda. Calls at equal times run in the order they were made;
    what asyncio wants soon runs before the next entry of the agenda.

    An exception that nobody catches ends run() with it.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._agenda: list[_Entry] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._num_made = 0
        self._failure: BaseException | None = None
        self._is_stopped = False
        self.num_events = 0

    def now(self) -> float:
        return self._now_s

    def at(self, at_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Calls at that time, which is not before now."""
        assert at_s >= self._now_s, f"{at_s} is in the past of {self._now_s}"
        self._num_made += 1
        heapq.heappush(self._agenda, (at_s, self._num_made, call, arguments))

    def after(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        self.at(self._now_s + delay_s, call, *arguments)

    def run(self, on_progress: Callable[[], None] | None = None, every: int = 20_000) -> None:
        """Until nothing is left to happen, or stop(); on_progress every so many events."""
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._is_stopped = False
        try:
            while self._step():
                if on_progress is not None and self.num_events % every == 0:
                    on_progress()
        finally:
            asyncio._set_running_loop(outer)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """run() returns when what is due now has happened."""
        self._is_stopped = True

    def _step(self) -> bool:
        ready = self._ready
        while ready:
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        if self._failure is not None or self._is_stopped or not self._agenda:
            return False
        self._now_s, _, call, arguments = heapq.heappop(self._agenda)
        call(*arguments)
        self.num_events += 1
        return True

    # --- what asyncio asks of a loop -----------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.at(max(when, self._now_s), self._fire, handle)
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        message = context.get("message", "an error in the simulation's loop")
        if self._failure is None:
            self._failure = error if error is not None else RuntimeError(message)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Its entry stays on the agenda and does nothing."""

    def _fire(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled():
            handle._run()
