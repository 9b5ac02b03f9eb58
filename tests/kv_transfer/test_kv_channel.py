"""What a connection's end is told as."""

import socket
from contextlib import closing

import pytest

from kv_transfer.channel import Channel
from kv_transfer.errors import FailReason, TransferError


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def test_a_peer_that_takes_nothing_for_as_long_as_it_may_be_silent_hangs() -> None:
    near, far = _connected()
    channel = Channel(near, stall_s=0.2)
    with closing(channel), far:
        with pytest.raises(BlockingIOError):
            while True:
                near.send(bytes(65536), socket.MSG_DONTWAIT)
        with pytest.raises(TransferError) as caught:
            channel.receive(waits=True)
    assert caught.value.reason is FailReason.PEER_HUNG


def test_a_peer_that_ends_the_connection_is_lost() -> None:
    near, far = _connected()
    channel = Channel(near, stall_s=0.2)
    with closing(channel):
        far.close()
        with pytest.raises(TransferError) as caught:
            channel.receive(waits=True)
    assert caught.value.reason is FailReason.PEER_LOST
