"""One answer for one Idempotency-Key: a repeated action is not done twice."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from control_plane.api.refusal import Refused
from control_plane.api.shapes import ActionResult

MAX_KEY_CHARS = 200


class Idempotency:
    """Remembers the newest `capacity` keys. A repeat waits for the first and gets its answer."""

    def __init__(self, capacity: int = 1000) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[str, tuple[bytes, asyncio.Future[ActionResult]]] = OrderedDict()

    async def once(
        self, key: str, asked: bytes, act: Callable[[], Awaitable[ActionResult]]
    ) -> ActionResult:
        """asked: the action and its body. No key: always done.

        Raises Refused when the key came with another body, and what the first one raised.
        """
        if not key:
            return await act()
        known = self._answers.get(key)
        if known is not None:
            if known[0] != asked:
                raise Refused(
                    "this Idempotency-Key came before, with another action or body",
                    code="idempotency_key_reused",
                    field="Idempotency-Key",
                )
            return await asyncio.shield(known[1])
        answer = asyncio.ensure_future(act())
        answer.add_done_callback(_read)
        self._answers[key] = (asked, answer)
        while len(self._answers) > self._capacity:
            self._answers.popitem(last=False)
        return await asyncio.shield(answer)


def _read(answer: "asyncio.Future[ActionResult]") -> None:
    """A refusal that nobody waits for any more is no unhandled error."""
    if not answer.cancelled():
        answer.exception()
