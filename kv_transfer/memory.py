"""The memory of a KV pool: one flat buffer that other processes of the host may map."""

import contextlib
import fcntl
import mmap
import os
from pathlib import Path
from typing import Protocol

import numpy as np

_NO_FD = -1


class Readable(Protocol):
    """A pool's bytes, of which slices are read."""

    def __getitem__(self, part: slice, /) -> bytes | memoryview: ...


class KVMemory:
    """`num_bytes` of zeroed memory. Whoever allocates or maps it closes it.

    Shared memory is a memfd: it has no name, so a killed process leaves nothing behind. Its size
    is sealed, so no process that maps it can make another fault.
    """

    def __init__(self, mapping: mmap.mmap, fd: int) -> None:
        self._mapping = mapping
        self._fd = fd
        self.buffer = memoryview(mapping)

    @classmethod
    def allocate(cls, num_bytes: int, shared: bool = True) -> "KVMemory":
        """Memory of this process; `shared` memory can be handed to others by its descriptor.

        Raises OSError where the memory cannot be had.
        """
        if not shared:
            return cls(mmap.mmap(-1, num_bytes), _NO_FD)
        fd = os.memfd_create("baton-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, num_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            return cls(mmap.mmap(fd, num_bytes), fd)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def map_read_only(cls, fd: int, num_bytes: int) -> "KVMemory":
        """Another process's shared memory; the descriptor stays the caller's.

        Raises ValueError when it is smaller than `num_bytes`, OSError when it cannot be mapped.
        """
        if os.fstat(fd).st_size < num_bytes:
            raise ValueError(f"shared memory of {os.fstat(fd).st_size} bytes, {num_bytes} expected")
        return cls(mmap.mmap(fd, num_bytes, prot=mmap.PROT_READ), _NO_FD)

    @property
    def num_bytes(self) -> int:
        return len(self._mapping)

    @property
    def readable(self) -> Readable:
        """The pool's bytes, wherever they lie."""
        return self.buffer

    @property
    def is_shared(self) -> bool:
        return self._fd != _NO_FD

    @property
    def address(self) -> int:
        """Where the first byte lies in this process; valid until close."""
        return int(np.frombuffer(self.buffer, np.uint8).ctypes.data)

    @property
    def descriptor(self) -> int:
        """Of the shared memory, for processes that compute into it; valid until close."""
        assert self.is_shared, "memory of this process alone"
        return self._fd

    def open_read_only(self) -> int:
        """A new descriptor that can only be read; the caller closes it."""
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Gives the memory back once no tensor views it any more; safe to call twice."""
        with contextlib.suppress(BufferError):
            self.buffer.release()
            self._mapping.close()
        if self._fd != _NO_FD:
            os.close(self._fd)
            self._fd = _NO_FD


def host_id() -> str:
    """Equal for processes that may share memory: one boot, one network namespace, one user."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.stat('/proc/self/ns/net').st_ino}:{os.getuid()}"
