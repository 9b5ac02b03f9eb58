"""NVIDIA's driver library, as far as KV blocks need it.

The driver and not the runtime: it has one name on every host, whatever brought the runtime along,
and both share a device's primary context.
"""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int, c_size_t, c_ubyte, c_uint
from ctypes import c_uint64 as c_address
from ctypes import c_void_p as c_pointer

import numpy as np

from kv_transfer.errors import FailReason, TransferError
from kv_transfer.plan import CopyTable
from runtime.log import get_logger

LIBRARY = "libcuda.so.1"
BATCH = "cuMemcpyBatchAsync_v2"
_NOT_READY = 600
_EVENT_FLAGS = 1 | 2  # waits do not spin; no time is taken
_NON_BLOCKING = 1  # torch's default stream is the legacy one, which others would stall
_ENABLE_PEER_ACCESS = 1
_STREAM_ORDER = 1
_BESIDE_COMPUTE = 1


class IpcHandle(Structure):
    """CUipcMemHandle."""

    _fields_ = (("data", c_char * 64),)


class _CopyAttributes(Structure):
    """CUmemcpyAttributes; locations matter for managed memory alone."""

    _fields_ = (
        ("source_order", c_int),
        ("source_location", c_int * 2),
        ("target_location", c_int * 2),
        ("flags", c_uint),
    )


_SIGNATURES: Mapping[str, Sequence[type]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceCanAccessPeer": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_pointer), c_int),
    "cuCtxSetCurrent": (c_pointer,),
    "cuMemAlloc_v2": (POINTER(c_address), c_size_t),
    "cuMemFree_v2": (c_address,),
    "cuMemsetD8Async": (c_address, c_ubyte, c_size_t, c_pointer),
    "cuMemGetAddressRange_v2": (POINTER(c_address), POINTER(c_size_t), c_address),
    "cuIpcGetMemHandle": (POINTER(IpcHandle), c_address),
    "cuIpcOpenMemHandle_v2": (POINTER(c_address), IpcHandle, c_uint),
    "cuIpcCloseMemHandle": (c_address,),
    "cuMemcpyAsync": (c_address, c_address, c_size_t, c_pointer),
    "cuMemcpyDtoHAsync_v2": (c_pointer, c_address, c_size_t, c_pointer),
    "cuStreamCreate": (POINTER(c_pointer), c_uint),
    "cuStreamDestroy_v2": (c_pointer,),
    "cuStreamSynchronize": (c_pointer,),
    "cuStreamWaitEvent": (c_pointer, c_pointer, c_uint),
    "cuEventCreate": (POINTER(c_pointer), c_uint),
    "cuEventDestroy_v2": (c_pointer,),
    "cuEventRecord": (c_pointer, c_pointer),
    "cuEventQuery": (c_pointer,),
    "cuEventSynchronize": (c_pointer,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}
_BATCH_SIGNATURE = (
    *(c_pointer,) * 3,
    c_size_t,
    POINTER(_CopyAttributes),
    POINTER(c_size_t),
    c_size_t,
    c_pointer,
)


class CudaDriver:
    """The library, loaded once a process. Every call raises TransferError (TRANSPORT) with the
    driver's own name for what went wrong. Addresses, events and streams are plain numbers."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
            for name, types in _SIGNATURES.items():
                getattr(self._library, name).argtypes = types
        except (OSError, AttributeError) as error:
            raise TransferError(FailReason.TRANSPORT, f"no CUDA driver: {error}") from error
        self.copies_batches = hasattr(self._library, BATCH)  # since CUDA 13.0
        if self.copies_batches:
            getattr(self._library, BATCH).argtypes = _BATCH_SIGNATURE
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise TransferError(FailReason.TRANSPORT, f"{name}: {self._name_of(code)}")

    def num_devices(self) -> int:
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        return count.value

    def reaches(self, device: int, peer: int) -> bool:
        """Device `device` can read the memory of `peer`."""
        answer = c_int()
        self.call("cuDeviceCanAccessPeer", byref(answer), device, peer)
        return bool(answer.value)

    def retain_context(self, device: int) -> int:
        """The device's primary context, which torch uses too; kept until the process ends."""
        context, handle = c_pointer(), c_int()
        self.call("cuDeviceGet", byref(handle), device)
        self.call("cuDevicePrimaryCtxRetain", byref(context), handle)
        return context.value or 0

    def allocate(self, num_bytes: int) -> int:
        address = c_address()
        self.call("cuMemAlloc_v2", byref(address), num_bytes)
        return address.value

    def allocation_of(self, address: int) -> tuple[int, int]:
        """Start and size of the allocation in which `address` lies."""
        start, size = c_address(), c_size_t()
        self.call("cuMemGetAddressRange_v2", byref(start), byref(size), address)
        return start.value, size.value

    def export(self, address: int) -> bytes:
        """The handle of an allocation."""
        handle = IpcHandle()
        self.call("cuIpcGetMemHandle", byref(handle), address)
        return bytes(handle)

    def open(self, handle: bytes) -> int:
        address = c_address()
        named = IpcHandle.from_buffer_copy(handle)
        self.call("cuIpcOpenMemHandle_v2", byref(address), named, _ENABLE_PEER_ACCESS)
        return address.value

    def new_stream(self) -> int:
        stream = c_pointer()
        self.call("cuStreamCreate", byref(stream), _NON_BLOCKING)
        return stream.value or 0

    def new_event(self) -> int:
        event = c_pointer()
        self.call("cuEventCreate", byref(event), _EVENT_FLAGS)
        return event.value or 0

    def has_passed(self, event: int) -> bool:
        code: int = self._library.cuEventQuery(event)
        if code not in (0, _NOT_READY):
            raise TransferError(FailReason.TRANSPORT, f"cuEventQuery: {self._name_of(code)}")
        return code == 0

    def copy_all(self, target: int, source: int, table: CopyTable, stream: int) -> None:
        """Starts the copies of a table between two addresses; by one call where the driver takes
        it, and beside the device's computing where the hardware can."""
        if self.copies_batches:
            try:
                self._copy_batch(target, source, table, stream)
            except TransferError as error:
                get_logger("kv_transfer").warning("kv copies go one by one", reason=str(error))
                self.copies_batches = False
        if not self.copies_batches:
            for from_, to, num_bytes in table.tolist():
                self.call("cuMemcpyAsync", target + to, source + from_, num_bytes, stream)

    def _copy_batch(self, target: int, source: int, table: CopyTable, stream: int) -> None:
        columns = np.ascontiguousarray(table.T, np.uint64)
        columns[0] += np.uint64(source)
        columns[1] += np.uint64(target)
        sources, targets, sizes = (row.ctypes.data for row in columns)
        how, first = _CopyAttributes(_STREAM_ORDER, flags=_BESIDE_COMPUTE), c_size_t(0)
        count = len(table)
        self.call(BATCH, targets, sources, sizes, count, byref(how), byref(first), 1, stream)

    def _name_of(self, code: int) -> str:
        name = c_char_p()
        if self._library.cuGetErrorName(code, byref(name)) or name.value is None:
            return f"CUDA error {code}"
        return name.value.decode()
