"""UCX's tagged messages as Baton uses them: one worker, one thread, no waiting, no threads of UCX.

ucxx is the maintained binding. ucx-py, its predecessor, is taken where only it is there.
"""

import importlib
from collections.abc import Callable
from typing import Protocol

from kv_transfer.errors import FailReason, TransferError
from runtime.clock import Clock
from runtime.settings import set_library_defaults

# A thread that sleeps while bytes come is woken too often, and late.
_LOOK_S = 0.0003
_MOST_LOOKS = 300
# Segments of 8 KiB, UCX's default, cost a factor of two to five.
_OPTIONS = {"TCP_TX_SEG_SIZE": "512k", "TCP_RX_SEG_SIZE": "512k", "RNDV_THRESH": "8192"}
# Importing ucxx sets UCX_RNDV_THRESH for the whole process where nothing stands there. With any
# other value than its own, which is inf, a NIXL agent of the same process loses its peers.
_DEFAULTS = {
    "UCX_LOG_LEVEL": "fatal",
    "UCX_WARN_UNUSED_ENV_VARS": "n",
    "UCX_RNDV_THRESH": "inf",
}


class UcxRequest(Protocol):
    """A send or receive under way; its buffer is left alone until it is done."""

    def is_done(self) -> bool:
        """Raises TransferError (TRANSPORT) when it failed."""


class UcxPort(Protocol):
    """A UCX worker and at most one peer to send to.

    fd: readable when there is something to progress, once `rest` was True.
    address: how a peer sends to this port.
    """

    @property
    def fd(self) -> int: ...

    @property
    def address(self) -> bytes: ...

    def send(self, buffer: memoryview, tag: int) -> UcxRequest:
        """To the peer. Raises TransferError (TRANSPORT)."""

    def receive(self, buffer: memoryview, tag: int) -> UcxRequest:
        """The message with this tag and of the buffer's size. Raises TransferError (TRANSPORT)."""

    def progress(self) -> None:
        """Moves what can be moved."""

    def rest(self) -> bool:
        """Whether `fd` will tell of the next event; otherwise there is one already. To be asked
        behind `progress`, with nothing posted and nothing done in between."""

    def close(self) -> None:
        """A fence: no buffer is read or written any more. Safe to call twice."""


OpenPort = Callable[[str, bytes], UcxPort]
"""From devices, as transports.interfaces gives them, and the peer's address, empty for none."""


def progress_until(is_enough: Callable[[], bool], port: UcxPort, clock: Clock) -> None:
    """Moves what can be moved, and looks again for a moment until it is enough; `is_enough` is
    true where no message is under way, so an idle port is left alone."""
    end_s = clock.now() + _LOOK_S
    for _ in range(_MOST_LOOKS):
        port.progress()
        if is_enough() or clock.now() >= end_s:
            return


def find_ucx() -> OpenPort:
    """The binding that is there. Raises TransferError (TRANSPORT) where none is."""
    set_library_defaults(_DEFAULTS)
    failures = []
    for name, open_with in (("ucxx", _open_ucxx), ("ucp", _open_ucx_py)):
        try:
            importlib.import_module(name)
        except ImportError as error:
            failures.append(f"{name}: {error}")
            continue
        return open_with
    raise TransferError(FailReason.TRANSPORT, "UCX cannot be loaded: " + "; ".join(failures))


def _open_ucxx(devices: str, peer: bytes) -> UcxPort:
    from kv_transfer.transports.ucxx_port import UcxxPort

    return UcxxPort(_options(devices), peer)


def _open_ucx_py(devices: str, peer: bytes) -> UcxPort:
    from kv_transfer.transports.ucx_py_port import UcxPyPort

    return UcxPyPort(_options(devices), peer)


def _options(devices: str) -> dict[str, str]:
    return {**_OPTIONS, **({"NET_DEVICES": devices} if devices else {})}
