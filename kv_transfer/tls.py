"""TLS 1.3 on the fabric's TCP connections: both sides show a certificate of the cluster's own CA.

The cluster's secret is proved behind it all the same. Names in certificates are not compared:
workers are reached by addresses that no certificate can know.
"""

import select
import socket
import ssl
from dataclasses import dataclass
from typing import Self

from kv_transfer.errors import FailReason, TransferError, connection_lost

_MAX_WRITE_BYTES = 1 << 18  # between two looks at the socket


@dataclass(frozen=True, slots=True)
class Tls:
    """The two sides of one worker's TLS; `load` reads the files once."""

    reader: ssl.SSLContext
    source: ssl.SSLContext

    @classmethod
    def load(cls, ca: str, cert: str, key: str) -> Self:
        """PEM files. Raises ValueError naming the file that cannot be used."""
        return cls(
            _context(ssl.PROTOCOL_TLS_CLIENT, ca, cert, key),
            _context(ssl.PROTOCOL_TLS_SERVER, ca, cert, key),
        )


def _context(protocol: int, ca: str, cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # sessions are not resumed
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"the TLS authority {ca!r} cannot be used: {error}") from error
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        text = f"the TLS certificate {cert!r} with the key {key!r} cannot be used: {error}"
        raise ValueError(text) from error
    return context


class TlsSocket:
    """What the fabric asks of a socket, over TLS. Never waits, but in `handshake` and `sendall`.

    As a socket does with MSG_DONTWAIT, it raises BlockingIOError where nothing can move.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, serves: bool) -> None:
        """Owns `sock`; `handshake` has to follow."""
        self._sock = context.wrap_socket(sock, server_side=serves, do_handshake_on_connect=False)
        self._stall_ms = 0.0

    @property
    def family(self) -> int:
        return self._sock.family

    @property
    def has_pending(self) -> bool:
        """Bytes are here that no poll tells of."""
        return self._sock.pending() > 0

    def handshake(self, timeout_s: float, stall_s: float) -> None:
        """Raises TransferError: NOT_A_MEMBER for a peer that is refused or refuses, PEER_HUNG,
        PEER_LOST."""
        self._stall_ms = stall_s * 1000.0
        self._sock.settimeout(timeout_s)
        try:
            self._sock.do_handshake()
            self._sock.setblocking(False)
        except TimeoutError as error:
            raise TransferError(FailReason.PEER_HUNG, "the peer does not speak TLS") from error
        except ssl.SSLError as error:
            raise TransferError(FailReason.NOT_A_MEMBER, f"TLS: {error}") from error
        except OSError as error:
            raise connection_lost(error) from error

    def fileno(self) -> int:
        return self._sock.fileno()

    def getsockname(self) -> tuple[str, int]:
        name: tuple[str, int] = self._sock.getsockname()
        return name

    def sendall(self, data: bytes) -> None:
        """Raises BlockingIOError when the peer takes nothing for the stall that it may take."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except ssl.SSLWantWriteError:
                self._wait_writable()

    def sendmsg(self, views: list[memoryview], ancillary: tuple[()], flags: int) -> int:
        """Bytes taken, of the views in order."""
        num_sent = 0
        for view in views:
            for start in range(0, view.nbytes, _MAX_WRITE_BYTES):
                part = view[start : start + _MAX_WRITE_BYTES]
                try:
                    taken = self._sock.send(part)
                except ssl.SSLWantWriteError:
                    return _moved(num_sent)
                num_sent += taken
                if taken < part.nbytes:
                    return num_sent
        return num_sent

    def recv(self, num_bytes: int, flags: int) -> bytes:
        try:
            return self._sock.recv(num_bytes)
        except ssl.SSLWantReadError as error:
            raise BlockingIOError from error

    def recvmsg_into(self, views: list[memoryview], size: int, flags: int) -> tuple[int]:
        """Bytes that went into the views, in order; 0 when the peer has ended."""
        num_bytes = 0
        for view in views:
            while view:
                try:
                    arrived = self._sock.recv_into(view)
                except ssl.SSLWantReadError:
                    return (_moved(num_bytes),)
                if not arrived:
                    return (num_bytes,)
                num_bytes += arrived
                view = view[arrived:]
        return (num_bytes,)

    def shutdown(self, how: int) -> None:
        """From any thread: the connection ends below TLS, whose state is another thread's."""
        socket.socket.shutdown(self._sock, how)

    def close(self) -> None:
        self._sock.close()

    def _wait_writable(self) -> None:
        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLOUT)
        if not poller.poll(self._stall_ms):
            raise BlockingIOError


def _moved(num_bytes: int) -> int:
    if not num_bytes:
        raise BlockingIOError
    return num_bytes
