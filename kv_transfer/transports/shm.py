"""The transport of one host: the reader maps the source's pool, read-only, and copies.

The source hands the descriptor of its memory out over an abstract Unix socket, after the
handshake. Neither has a name in the file system, so a killed process leaves nothing.
"""

import os
import secrets
import socket

from kv_transfer.channel import Channel, wait_readable
from kv_transfer.control import Ping
from kv_transfer.errors import FailReason, TransferError, connection_lost
from kv_transfer.handshake import join
from kv_transfer.memory import KVMemory
from kv_transfer.transport import LaneContext
from kv_transfer.transports.copying import CopyingLane


def listen_abstract(backlog: int) -> tuple[socket.socket, str]:
    """A listening socket and its name, which starts with @ where the kernel has a zero byte."""
    name = f"@baton-kv-{secrets.token_hex(16)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(_kernel_name(name))
    listener.listen(backlog)
    return listener, name


def hand_out(channel: Channel, memory: KVMemory, timeout_s: float) -> None:
    """Sends a read-only descriptor of the pool once the reader asks with a Ping.

    The descriptor rides on a byte that must not be received together with a frame.
    """
    if not isinstance(channel.receive_one(timeout_s), Ping):
        raise TransferError(FailReason.MALFORMED, "the peer did not ask for the memory")
    assert isinstance(channel.sock, socket.socket), "descriptors ride on Unix sockets alone"
    fd = memory.open_read_only()
    try:
        socket.send_fds(channel.sock, [b"m"], [fd])
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        os.close(fd)


class ShmLane(CopyingLane):
    """Copies from the mapped pool of a source on this host."""

    def __init__(self, context: LaneContext) -> None:
        """Raises TransferError when the memory cannot be had."""
        self._mapping = _map(context)
        super().__init__("shm", context, self._mapping)

    def close(self) -> None:
        super().close()
        self._mapping.close()


def _map(context: LaneContext) -> KVMemory:
    fd = _receive_fd(context)
    try:
        return KVMemory.map_read_only(fd, context.source_layout.pool_bytes)
    except (OSError, ValueError) as error:
        text = f"cannot map the source's pool: {error}"
        raise TransferError(FailReason.TRANSPORT, text) from error
    finally:
        os.close(fd)


def _receive_fd(context: LaneContext) -> int:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock:
        try:
            sock.connect(_kernel_name(context.address.shm_path))
        except OSError as error:
            text = f"cannot reach {context.address.shm_path}: {error}"
            raise TransferError(FailReason.UNREACHABLE, text) from error
        channel = Channel(sock, context.config.stall_s)
        timeout_s = context.config.connect_s
        join(channel, context.secret, "memory", context.source, timeout_s)
        channel.send(Ping(0))
        if not wait_readable([channel.fd], timeout_s):
            raise TransferError(FailReason.PEER_HUNG, "the source did not hand its memory out")
        return _one_fd(sock)


def _one_fd(sock: socket.socket) -> int:
    try:
        _, fds, _, _ = socket.recv_fds(sock, 1, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise connection_lost(error) from error
    if len(fds) != 1:
        raise TransferError(FailReason.MALFORMED, "the source handed no memory out")
    return fds[0]


def _kernel_name(name: str) -> bytes:
    return b"\0" + name.removeprefix("@").encode()
