"""What the source's side of every connection shares."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kv_transfer.channel import Channel, Poller, Waker
from kv_transfer.config import TransferConfig
from kv_transfer.control import Bounds, Frame
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.exports import ExportTable
from kv_transfer.mapping import Window
from kv_transfer.memory import KVMemory
from wire.kv import KVLayout


@dataclass(frozen=True, slots=True)
class Source:
    """What every session serves from. probe_blocks: hold no request's KV, ever."""

    layout: KVLayout
    memory: KVMemory
    exports: ExportTable
    config: TransferConfig
    probe_blocks: tuple[int, ...] = ()


class Session:
    """An exports.Listener with a thread's loop. `stop` may come from any thread."""

    def __init__(self, channel: Channel, source: Source) -> None:
        self._channel = channel
        self._source = source
        self._waker = Waker()
        self._poller = Poller()
        self._fds = [channel.fd, self._waker.fd]
        self._endings: deque[tuple[bytes, FailReason, str]] = deque()

    def wake(self) -> None:
        self._waker.wake()

    def ended(self, handle_id: bytes, reason: FailReason, message: str) -> None:
        self._endings.append((handle_id, reason, message))
        self._waker.wake()

    def close(self) -> None:
        self._waker.close()

    def _wait(self, timeout_s: float | None = None) -> Sequence[Frame]:
        """Frames that came, none when something else did."""
        readable = self._poller.wait(self._fds, timeout_s)
        channel_fd, waker_fd = self._fds
        if waker_fd in readable:
            self._waker.clear()
        return self._channel.receive() if channel_fd in readable else ()


def checked_window(bounds: Bounds | None, layout: KVLayout, num_tokens: int) -> Window | None:
    """Raises TransferError (MALFORMED) for a window outside of the prompt."""
    window = None if bounds is None else Window(*bounds)
    if window is not None and not window.fits(layout, num_tokens):
        raise TransferError(FailReason.MALFORMED, "a window outside of the published prompt")
    return window
