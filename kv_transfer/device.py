"""A pool in a device's memory: what the direct path asks of the device.

    source                             reader
    export() -> handle  ----------->   open_peer(handle) -> address
    layer events -> watermark          stream(): copies from there into its own pool

There are two: kv_transfer.cuda_device, and kv_transfer.device_twin, whose device is this host.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kv_transfer.memory import KVMemory, Readable
from kv_transfer.plan import CopyTable

HOST = -1
"""In the place of a device's number: memory of the host."""


@dataclass(frozen=True, slots=True)
class PeerMemory:
    """Another process's pool, opened here for reading. Whoever opened it closes it, once."""

    address: int
    num_bytes: int
    close: Callable[[], None]


class CopyStream(Protocol):
    """Copies into one pool, in the order in which they are asked for, beside whatever the device
    computes. One thread uses it.

    fd: readable when copies have ended that `num_done` has not told of.
    All but `close` raise TransferError (TRANSPORT) when the device fails.
    """

    @property
    def fd(self) -> int: ...

    def copy(self, source: int, table: CopyTable) -> int:
        """Starts the copies of `table` from the opened pool at address `source`, behind what the
        pool's last fence names. Gives their number, counted from 1."""

    def num_done(self) -> int:
        """The copies up to this number have ended; never waits."""

    def wait(self, number: int) -> None:
        """Returns when the copies up to `number` have ended."""

    def close(self) -> None:
        """Nothing is written afterwards."""


class DeviceMemory(KVMemory, ABC):
    """A pool that the host's lanes do not reach; `buffer` is empty where the host cannot map it.

    Any thread may use it, but for `stream`, which serves one.
    """

    device: int  # HOST for the twin
    is_shared = False  # by descriptor

    @abstractmethod
    def export(self) -> bytes:
        """A handle by which another process of this host opens the pool. Raises TransferError
        (TRANSPORT) where the device or the system does not allow it."""

    @abstractmethod
    def open_peer(self, handle: bytes, num_bytes: int) -> PeerMemory:
        """Opens what a proved peer has exported, of at least `num_bytes`. Raises TransferError
        (TRANSPORT)."""

    @abstractmethod
    def stream(self) -> CopyStream:
        """A stream for copies into this pool. Raises TransferError (TRANSPORT)."""

    @abstractmethod
    def fence(self, compute_stream: int) -> None:
        """Copies that are started from here on come behind what `compute_stream` was given."""

    @abstractmethod
    def is_settled(self) -> bool:
        """The device has done what the last fence names."""

    @abstractmethod
    def bind(self) -> None:
        """Makes the device the calling thread's, for libraries that look for it there."""

    @property
    @abstractmethod
    def readable(self) -> Readable: ...


def device_of(memory: KVMemory) -> int:
    """The number of the device that holds the pool; HOST for memory of the host."""
    return memory.device if isinstance(memory, DeviceMemory) else HOST
