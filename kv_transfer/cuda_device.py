"""Pools in the memory of an NVIDIA GPU, and copies between them by the driver.

A pool is an allocation of its own and none of torch's: its handle opens nothing else to a peer,
and torch's expandable segments, which cannot be exported, play no part.
"""

import contextlib
import ctypes
import threading

from kv_transfer.copy_thread import CopyThread
from kv_transfer.cuda_driver import CudaDriver
from kv_transfer.device import DeviceMemory, PeerMemory
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.plan import CopyTable

_HANDLE_BYTES = 64


class CudaDevice:
    """One GPU, whose primary context this process keeps until it ends."""

    def __init__(self, driver: CudaDriver, index: int) -> None:
        """Raises TransferError (TRANSPORT) where there is no such GPU."""
        self.driver = driver
        self.index = index
        self._context = driver.retain_context(index)

    def bind(self) -> None:
        """Makes the context the calling thread's; costs a fraction of a microsecond."""
        self.driver.call("cuCtxSetCurrent", self._context)

    def allocate(self, num_bytes: int) -> "CudaMemory":
        """A zeroed pool. Raises TransferError (TRANSPORT) where the memory cannot be had."""
        return CudaMemory(self, num_bytes)


class CudaMemory(DeviceMemory):
    """A kv_transfer.device.DeviceMemory on a GPU; whoever allocates it closes it.

    `buffer` is empty; `readable` copies each slice to the host.
    """

    def __init__(self, gpu: CudaDevice, num_bytes: int) -> None:
        gpu.bind()
        driver = gpu.driver
        self.buffer = memoryview(b"")
        self.device = gpu.index
        self._gpu = gpu
        self._num_bytes = num_bytes
        self._stream = driver.new_stream()  # for the host's reads
        self._fence = driver.new_event()
        self._lock = threading.Lock()
        self._is_exported = False
        self._is_closed = False
        try:
            self._address = driver.allocate(num_bytes)
        except TransferError:
            self._destroy()
            raise
        driver.call("cuMemsetD8Async", self._address, 0, num_bytes, self._stream)
        driver.call("cuStreamSynchronize", self._stream)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def address(self) -> int:
        return self._address

    @property
    def readable(self) -> "CudaMemory":
        return self

    def __getitem__(self, part: slice) -> bytes:
        """Waits for its own copy and for nothing that the device computes."""
        start, end, _ = part.indices(self._num_bytes)
        found = ctypes.create_string_buffer(max(0, end - start))
        self._gpu.bind()
        with self._lock:
            call, stream = self._gpu.driver.call, self._stream
            call("cuMemcpyDtoHAsync_v2", found, self._address + start, len(found), stream)
            call("cuStreamSynchronize", stream)
        return found.raw

    def export(self) -> bytes:
        self._gpu.bind()
        start, _ = self._gpu.driver.allocation_of(self._address)
        handle = self._gpu.driver.export(start)
        self._is_exported = True
        return handle + (self._address - start).to_bytes(8, "little")

    def open_peer(self, handle: bytes, num_bytes: int) -> PeerMemory:
        if len(handle) != _HANDLE_BYTES + 8:
            raise TransferError(FailReason.TRANSPORT, "that is no handle of a GPU's memory")
        self._gpu.bind()
        driver = self._gpu.driver
        start = driver.open(handle[:_HANDLE_BYTES])
        offset = int.from_bytes(handle[_HANDLE_BYTES:], "little")
        try:
            base, size = driver.allocation_of(start)
            if start + offset + num_bytes > base + size:
                text = f"the source's pool has {size} bytes, {offset + num_bytes} expected"
                raise TransferError(FailReason.TRANSPORT, text)
        except TransferError:
            driver.call("cuIpcCloseMemHandle", start)
            raise
        return PeerMemory(start + offset, num_bytes, lambda: self._close_peer(start))

    def stream(self) -> "CudaStream":
        return CudaStream(self._gpu, self)

    def fence(self, compute_stream: int) -> None:
        self._gpu.bind()
        self._gpu.driver.call("cuEventRecord", self._fence, compute_stream)

    def is_settled(self) -> bool:
        self._gpu.bind()
        return self._gpu.driver.has_passed(self._fence)

    def bind(self) -> None:
        self._gpu.bind()

    def sibling(self, num_bytes: int) -> "CudaMemory":
        """Another pool on the same GPU."""
        return self._gpu.allocate(num_bytes)

    def wait_for_fence(self, stream: int) -> None:
        """What `stream` is given from here on comes behind the last fence."""
        self._gpu.driver.call("cuStreamWaitEvent", stream, self._fence, 0)

    def close(self) -> None:
        """Gives the memory back; that which was exported when the process ends, since a reader
        may still have it open. Safe to call twice."""
        if self._is_closed:
            return
        with _what_a_failed_device_keeps():
            self._gpu.bind()
            if not self._is_exported:
                self._gpu.driver.call("cuMemFree_v2", self._address)
        self._destroy()

    def _close_peer(self, start: int) -> None:
        with _what_a_failed_device_keeps():
            self._gpu.bind()
            self._gpu.driver.call("cuIpcCloseMemHandle", start)

    def _destroy(self) -> None:
        self._is_closed = True
        with _what_a_failed_device_keeps():
            self._gpu.driver.call("cuEventDestroy_v2", self._fence)
            self._gpu.driver.call("cuStreamDestroy_v2", self._stream)


class CudaStream:
    """A kv_transfer.device.CopyStream. Its thread sleeps until the next copy's event has passed, so
    that neither the reader's thread nor a processor waits for it."""

    def __init__(self, gpu: CudaDevice, memory: CudaMemory) -> None:
        gpu.bind()
        self._gpu = gpu
        self._memory = memory
        self._stream = gpu.driver.new_stream()
        self._copies = CopyThread(self._end)

    @property
    def fd(self) -> int:
        return self._copies.fd

    def copy(self, source: int, table: CopyTable) -> int:
        driver, stream = self._gpu.driver, self._stream
        self._gpu.bind()
        self._memory.wait_for_fence(stream)
        driver.copy_all(self._memory.address, source, table, stream)
        event = driver.new_event()
        driver.call("cuEventRecord", event, stream)
        return self._copies.add(event)

    def num_done(self) -> int:
        return self._copies.num_done()

    def wait(self, number: int) -> None:
        self._copies.wait(number)

    def close(self) -> None:
        """Waits for the stream too: a copy that could not be told of may have been started."""
        self._copies.close()
        with _what_a_failed_device_keeps():
            self._gpu.bind()
            self._gpu.driver.call("cuStreamSynchronize", self._stream)
            self._gpu.driver.call("cuStreamDestroy_v2", self._stream)

    def _end(self, event: int) -> None:
        self._gpu.bind()
        self._gpu.driver.call("cuEventSynchronize", event)
        self._gpu.driver.call("cuEventDestroy_v2", event)


def _what_a_failed_device_keeps() -> contextlib.suppress:
    """It takes nothing back and writes nothing any more; the process ends with it."""
    return contextlib.suppress(TransferError)
