"""The direct path without a device: shared memory for a device's, a thread for its stream.

It stands in where there is no GPU, so that lanes, leases and ends are the same code in both.
"""

import os

from kv_transfer.copy_regions import load_copy_regions
from kv_transfer.copy_thread import CopyThread
from kv_transfer.device import HOST, DeviceMemory, PeerMemory
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.plan import CopyTable


class TwinMemory(DeviceMemory):
    """Zeroed memory whose handle names the process that holds it and its descriptor there."""

    device = HOST

    def __init__(self, num_bytes: int) -> None:
        """Raises OSError where the memory cannot be had."""
        self._owned = KVMemory.allocate(num_bytes)
        self.buffer = self._owned.buffer

    @property
    def num_bytes(self) -> int:
        return self._owned.num_bytes

    @property
    def address(self) -> int:
        return self._owned.address

    @property
    def readable(self) -> memoryview:
        return self.buffer

    def export(self) -> bytes:
        descriptor = self._owned.descriptor
        return f"{os.getpid()}:{descriptor}:{os.fstat(descriptor).st_ino}".encode()

    def open_peer(self, handle: bytes, num_bytes: int) -> PeerMemory:
        try:
            pid, descriptor, inode = (int(part) for part in handle.split(b":"))
            fd = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise _refused(error) from error
        try:
            if os.fstat(fd).st_ino != inode:
                raise _refused("it is gone")
            mapped = KVMemory.map_read_only(fd, num_bytes)
        except (OSError, ValueError) as error:
            raise _refused(error) from error
        finally:
            os.close(fd)
        return PeerMemory(mapped.address, mapped.num_bytes, mapped.close)

    def stream(self) -> "TwinStream":
        return TwinStream(self.address)

    def fence(self, compute_stream: int) -> None:
        """The host computes as it goes: there is nothing to wait for."""

    def is_settled(self) -> bool:
        return True

    def bind(self) -> None:
        """The host is every thread's."""

    def close(self) -> None:
        self._owned.close()


class TwinStream:
    """A kv_transfer.device.CopyStream; its thread copies."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._copy_regions = load_copy_regions()
        self._copies = CopyThread(self._run)

    @property
    def fd(self) -> int:
        return self._copies.fd

    def copy(self, source: int, table: CopyTable) -> int:
        return self._copies.add((source, table))

    def num_done(self) -> int:
        return self._copies.num_done()

    def wait(self, number: int) -> None:
        self._copies.wait(number)

    def close(self) -> None:
        self._copies.close()

    def _run(self, copy: tuple[int, CopyTable]) -> None:
        self._copy_regions(self._target, *copy)


def _refused(why: object) -> TransferError:
    return TransferError(FailReason.TRANSPORT, f"cannot open the source's pool: {why}")
