"""Hands events from synchronous producers to one waiting task, all that wait at once."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Unbounded; one reader, in the loop that made it.

    What arrives in one turn of the loop is taken in one piece. So is what can wait and arrives
    within a pause behind the last such piece: the first wakes the reader at once, the next ones
    when the pause is over, and whatever cannot wait takes all that is there with it.
    """

    def __init__(
        self,
        pause_s: Callable[[], float] | None = None,
        can_wait: Callable[[T], bool] = lambda item: False,
    ) -> None:
        """pause_s: how long a pause is that begins now; None: there are none."""
        self._loop = asyncio.get_running_loop()
        self._items: list[T] = []
        self._is_due = False  # the items are to be taken
        self._waiter: asyncio.Future[None] | None = None
        self._pause_s = pause_s
        self._can_wait = can_wait
        self._until_s = 0.0  # end of the pause, on the loop's clock
        self._timer: asyncio.TimerHandle | None = None

    def put(self, item: T) -> None:
        self._items.append(item)
        if self._is_due:
            return
        if self._pause_s is not None and self._can_wait(item):
            self._wake_later()
        else:
            self._wake()

    async def take(self) -> list[T]:
        """Everything that arrived, after waiting for a first item if need be."""
        if not self._is_due:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._end_timer()
        self._is_due = False
        items, self._items = self._items, []
        return items

    def _wake(self) -> None:
        self._end_timer()
        self._is_due = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wake_later(self) -> None:
        if self._timer is not None:
            return
        if self._loop.time() < self._until_s:
            self._timer = self._loop.call_at(self._until_s, self._pause_over)
        else:
            self._pause_over()

    def _pause_over(self) -> None:
        self._timer = None
        if self._pause_s is not None:
            self._until_s = self._loop.time() + self._pause_s()
        self._wake()

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
