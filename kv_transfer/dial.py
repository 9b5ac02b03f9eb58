"""A reader's connection to a source."""

import socket

from kv_transfer.channel import Channel
from kv_transfer.config import TransferConfig
from kv_transfer.errors import FailReason, TransferError
from wire.kv import FabricAddress


def dial(address: FabricAddress, config: TransferConfig) -> Channel:
    """Nothing is proved yet, but that under TLS both sides are of the cluster's authority.

    Raises TransferError: UNREACHABLE, NOT_A_MEMBER where TLS refuses or one side alone asks for
    it, PEER_HUNG, PEER_LOST.
    """
    if address.tls and config.tls is None:
        text = "the source asks for TLS, and this worker has no certificate"
        raise TransferError(FailReason.NOT_A_MEMBER, text)
    if config.tls is not None and not address.tls:
        text = "this worker asks for TLS, and the source has no certificate"
        raise TransferError(FailReason.NOT_A_MEMBER, text)
    channel = Channel(_connect(address.host, address.port, config.connect_s), config.stall_s)
    if config.tls is not None:
        try:
            channel.secure(config.tls.reader, config.connect_s, serves=False)
        except TransferError:
            channel.close()
            raise
    return channel


def _connect(host: str, port: int, timeout_s: float) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), timeout_s)
    except OSError as error:
        text = f"cannot reach {host}:{port}: {error}"
        raise TransferError(FailReason.UNREACHABLE, text) from error
    sock.settimeout(None)
    return sock
