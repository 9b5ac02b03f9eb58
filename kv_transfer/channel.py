"""A connected socket that carries control frames, and the wake-up of a thread that waits on it."""

import contextlib
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
import threading

from kv_transfer.control import MAX_HANDSHAKE_BYTES, Frame, FrameBuffer, encode
from kv_transfer.errors import FailReason, TransferError, connection_lost
from kv_transfer.tls import TlsSocket

_RECEIVE_BYTES = 1 << 16
_INT = struct.Struct("i")
_TCP_THIN_LINEAR_TIMEOUTS = 16  # linux/tcp.h; the socket module does not name it


class Waker:
    """Ends another thread's poll. `wake` is cheap and safe from any thread, also after close."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def wake(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Called by the woken thread before it looks at what there is to do."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


class Poller:
    """Waits for the same descriptors again and again; used by one thread."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._poll = select.poll()

    def wait(self, fds: list[int], timeout_s: float | None) -> list[int]:
        """The descriptors that can be read or have failed; none after `timeout_s` seconds."""
        if fds != self._fds:
            self._fds, self._poll = fds, select.poll()
            for fd in fds:
                self._poll.register(fd, select.POLLIN)
        timeout_ms = None if timeout_s is None else max(0.0, timeout_s * 1000.0)
        return [fd for fd, _ in self._poll.poll(timeout_ms)]


def wait_readable(fds: list[int], timeout_s: float | None) -> list[int]:
    """`Poller.wait`, once."""
    return Poller().wait(fds, timeout_s)


def wait_writable(sock: socket.socket | TlsSocket, timeout_s: float) -> None:
    """Raises TransferError (PEER_HUNG) when the peer takes no bytes for `timeout_s`."""
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLOUT)
    left = _untaken_bytes(sock)
    # The kernel calls a socket writable when a third of its buffer is free, which takes a slow
    # link long; what the peer has taken meanwhile tells that it lives.
    while not poller.poll(timeout_s * 1000.0):
        before, left = left, _untaken_bytes(sock)
        if left >= before:
            raise TransferError(FailReason.PEER_HUNG, "the peer takes no bytes")


def _untaken_bytes(sock: socket.socket | TlsSocket) -> int:
    """Bytes in the kernel's buffer that the peer has not acknowledged."""
    (count,) = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
    return int(count)


class Channel:
    """Frames over one connected socket; used by one thread, `shutdown` by any."""

    def __init__(self, sock: socket.socket, stall_s: float) -> None:
        """Owns `sock`. Raises TransferError (PEER_LOST) when it has ended already."""
        self.sock: socket.socket | TlsSocket = sock
        self._stall_s = stall_s
        self._is_shut = False
        self._frames = FrameBuffer(MAX_HANDSHAKE_BYTES)
        self._waiting: list[Frame] = []
        try:
            _tune(sock, stall_s)
        except OSError as error:
            sock.close()
            raise connection_lost(error) from error

    @property
    def fd(self) -> int:
        return self.sock.fileno()

    @property
    def has_pending(self) -> bool:
        """Bytes are here that no poll tells of."""
        return isinstance(self.sock, TlsSocket) and self.sock.has_pending

    def secure(self, context: ssl.SSLContext, timeout_s: float, *, serves: bool) -> None:
        """Goes on under TLS, which has to come first. Raises TransferError (NOT_A_MEMBER,
        PEER_HUNG, PEER_LOST)."""
        assert isinstance(self.sock, socket.socket)
        secured = self.sock = TlsSocket(self.sock, context, serves=serves)
        if self._is_shut:  # by another thread, which may have seen the socket from before
            self.shutdown()
        secured.handshake(timeout_s, self._stall_s)

    def allow_long_frames(self, max_bytes: int) -> None:
        """After the handshake: until then nobody may make this process hold much memory."""
        self._frames.max_bytes = max_bytes

    def send(self, *frames: Frame) -> None:
        """All of `frames` at once. Raises TransferError (PEER_LOST, PEER_HUNG)."""
        try:
            self.sock.sendall(b"".join(map(encode, frames)))
        except BlockingIOError as error:  # SO_SNDTIMEO is over
            raise TransferError(FailReason.PEER_HUNG, "the peer takes no bytes") from error
        except OSError as error:
            raise connection_lost(error) from error

    def receive(self, *, waits: bool = False) -> list[Frame]:
        """The frames that are here, none when there is no whole one. waits: until the peer sends
        something or ends, in the system call that takes it; else never.

        Raises TransferError (PEER_LOST, PEER_HUNG, MALFORMED).
        """
        frames, self._waiting = self._waiting, []
        if waits and isinstance(self.sock, TlsSocket):
            wait_readable([self.fd], None)
        try:
            data = self.sock.recv(_RECEIVE_BYTES, 0 if waits else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return frames
        except ssl.SSLError as error:  # such as a certificate that the other side refuses
            raise TransferError(FailReason.NOT_A_MEMBER, f"TLS: {error}") from error
        except OSError as error:
            raise connection_lost(error) from error
        if not data:
            raise TransferError(FailReason.PEER_LOST, "the peer closed the connection")
        return frames + self._frames.feed(data)

    def receive_one(self, timeout_s: float) -> Frame:
        """The next frame, for a handshake. Raises TransferError (PEER_HUNG after `timeout_s`)."""
        while not self._waiting:
            if not wait_readable([self.fd], timeout_s):
                raise TransferError(FailReason.PEER_HUNG, f"no answer within {timeout_s:g} s")
            self._waiting = self.receive()
        return self._waiting.pop(0)

    def shutdown(self) -> None:
        """Ends both directions; a thread that waits on the socket sees its end."""
        self._is_shut = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.sock.close()


def _tune(sock: socket.socket, stall_s: float) -> None:
    """No delay for small frames, bounded waits for a peer that is gone or takes nothing. What is
    lost of a few small frames is sent again at an even pace: doubled pauses would make a heartbeat
    late by twice a cut.

    Buffer sizes stay the kernel's: 4 MiB set by hand measured no faster than its own tuning.
    """
    whole_s = int(stall_s)
    wait = struct.pack("ll", whole_s, int((stall_s - whole_s) * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_THIN_LINEAR_TIMEOUTS, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))
