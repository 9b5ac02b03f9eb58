"""A gateway's end of a session: client frames out, worker frames in."""

import asyncio
from collections.abc import Callable

from wire.bidi_call import BidiCall, open_call
from wire.messages import ClientFrame, WorkerFrame
from wire.packed import pack_client_frame, unpack_worker_frame
from wire.rpc import call_metadata

_PATH = "/baton.v1.Worker/Session"


class SessionCall:
    """An open session; `ended` holds None, or a CallError that says why."""

    def __init__(self, call: BidiCall) -> None:
        self._call = call

    @property
    def ended(self) -> "asyncio.Future[None]":
        return self._call.ended

    def send(self, frame: ClientFrame) -> None:
        self._call.send(pack_client_frame(frame))

    def close(self) -> None:
        """Safe to repeat, and after the end."""
        self._call.close()


async def open_session(
    address: str, on_frame: Callable[[WorkerFrame], None], token: str = ""
) -> SessionCall:
    """A session with the worker at host:port; on_frame hears of its frames, in the loop.

    Raises CallError when the worker cannot be reached.
    """

    def on_message(message: bytes) -> None:
        on_frame(unpack_worker_frame(message))

    return SessionCall(await open_call(address, _PATH, call_metadata(token), on_message))
