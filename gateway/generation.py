"""The running generators of one HTTP request, which a failure or the client can end at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from starlette.types import Receive

from gateway.errors import ApiError, ClientGone
from gateway.limits import MAX_WAITING_DELTAS, Limits
from router.candidates import RouterSnapshot
from router.output import OutputDelta, RequestTrace
from runtime.log import get_logger
from wire.errors import BatonError, ErrorCode
from wire.messages import GenerateRequest

_log = get_logger("gateway")


class TokenSource(Protocol):
    """The router as the gateway uses it. Closing or cancelling the iterator cancels the request."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[OutputDelta]: ...

    def snapshot(self) -> RouterSnapshot: ...

    def trace(self, request_id: str) -> RequestTrace | None: ...

    def recent_traces(
        self, count: int, slowest: bool = False
    ) -> Sequence[tuple[str, RequestTrace]]: ...


class Generation:
    """Pumps one generator per prompt, so that tokens that wait are taken together.

    Used as `async with`, whose end cancels every pump: nothing runs on for a client that is gone.
    What waits is bounded: a client that falls too far behind loses its connection, and whatever
    takes too long fails.
    """

    def __init__(
        self,
        source: TokenSource,
        requests: Sequence[GenerateRequest],
        receive: Receive | None,
        limits: Limits,
        abort: Callable[[], None] | None,
        on_gone: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """on_gone: takes what is to be called when the client has gone; without it, receive tells;
        without both, whoever runs this is cancelled then.

        abort: drops the client's connection, of a client that reads too slowly."""
        self._limits = limits
        self._abort = abort
        self._num_silent = len(requests)  # that have given no token yet
        self.waiting = ""  # what a prompt has waited for; known with its first token
        self._timers: list[asyncio.TimerHandle] = []
        self._source = source
        self._requests = requests
        self._receive = receive
        self._on_gone = on_gone
        self._waiting: list[tuple[int, OutputDelta]] = []
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # of take(), while it waits
        self._take_at_once: Callable[[int, OutputDelta], bool] | None = None
        self._is_asked_back = False  # by that function: take() returns, whatever has arrived
        self._pumps: list[asyncio.Task[None]] = []
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Generation":
        if self._on_gone is not None:
            self._on_gone(lambda: self.fail(ClientGone()))
        elif self._receive is not None:
            self._watch = asyncio.create_task(self._watch_client(self._receive))
        self._pumps = [
            asyncio.create_task(self._pump(index, request))
            for index, request in enumerate(self._requests)
        ]
        limits = self._limits
        self._fail_after(limits.first_token_timeout_s, self._fail_silent)
        self._fail_after(limits.request_timeout_s, self._fail_late)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._take_at_once = None  # whose owner has this generation
        for timer in self._timers:
            timer.cancel()
        running = [task for task in (self._watch, *self._pumps) if task and not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.gather(*running, return_exceptions=True)
        self._failure = None  # whose traceback has this generation

    def hand_over(self, take: Callable[[int, OutputDelta], bool]) -> None:
        """While somebody waits in take(), deltas that end nothing go to this function at once.

        It takes a delta in any case; False: whoever waits is woken.
        """
        self._take_at_once = take

    async def take(self) -> list[tuple[int, OutputDelta]]:
        """What arrived since the last take, as (prompt's index, delta), waiting for a first one.

        Nothing, where hand_over()'s function asks for it. Raises BatonError when a request failed,
        after everything that came before it was taken; ClientGone at once.
        """
        if not self._waiting and self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        is_left = self._waiting or self._is_asked_back
        if self._failure is not None and (isinstance(self._failure, ClientGone) or not is_left):
            raise self._failure
        self._is_asked_back = False
        taken, self._waiting = self._waiting, []
        return taken

    def end(self, index: int) -> None:
        """Cancels one prompt's generator; its answer is complete."""
        self._pumps[index].cancel()

    def fail(self, failure: Exception) -> None:
        """Ends the request with `failure`; the first one given counts."""
        if self._failure is None:
            self._failure = failure
            self._wake()
            for pump in self._pumps:
                pump.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _pump(self, index: int, request: GenerateRequest) -> None:
        is_silent, is_finished = True, False
        try:
            async for delta in self._source.generate(request):
                if is_silent:
                    is_silent = False
                    self._num_silent -= 1
                    self.waiting = delta.waiting or self.waiting
                is_finished = delta.finish_reason is not None
                if not is_finished and self._hands_over(index, delta):
                    continue
                self._waiting.append((index, delta))
                self._wake()
                if len(self._waiting) > MAX_WAITING_DELTAS:
                    self._drop()
        except BatonError as error:
            self.fail(error.with_traceback(None))
        except Exception:  # the task's edge: nobody awaits it, so the failure goes to take()
            _log.exception("the router failed", request_id=request.request_id)
            self.fail(BatonError(ErrorCode.INTERNAL, "the request failed inside the gateway"))
        else:
            if not is_finished:
                self.fail(BatonError(ErrorCode.INTERNAL, "the answer stopped without an end"))

    def _hands_over(self, index: int, delta: OutputDelta) -> bool:
        """One task's wake-up less than through take()."""
        if self._take_at_once is None or self._waiter is None or self._waiter.done():
            return False
        if not self._take_at_once(index, delta):
            self._is_asked_back = True
            self._wake()
        return True

    def _drop(self) -> None:
        """Where nobody can drop the connection, the stall's time limit does."""
        if self._abort is not None:
            self._abort()
            self._abort = None

    def _fail_after(self, seconds: float, fail: Callable[[], None]) -> None:
        if seconds:
            self._timers.append(asyncio.get_running_loop().call_later(seconds, fail))

    def _fail_silent(self) -> None:
        if self._num_silent:
            message = f"no token came within {self._limits.first_token_timeout_s:g} s"
            self.fail(ApiError(503, message, code="first_token_timeout", retry_after_s=1.0))

    def _fail_late(self) -> None:
        message = f"the answer took over {self._limits.request_timeout_s:g} s"
        self.fail(ApiError(504, message, code="request_timeout"))

    async def _watch_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.fail(ClientGone())
