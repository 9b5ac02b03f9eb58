"""The source's side of the transport ucx, spoken to directly."""

import importlib.util
import socket

import pytest

from kv_transfer.channel import Channel, wait_readable
from kv_transfer.config import TransferConfig
from kv_transfer.control import Attach, Meet, Ping, Pong, Read
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity, join
from kv_transfer.plan import Cursor, Piece
from kv_transfer.transports.staging import Staging
from wire.kv import KVLayout

SECRET = b"a cluster's secret"
BLOCKS = [3, 4, 5, 40]
NUM_TOKENS = 64
PATIENCE_S = 30.0

pytestmark = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("ucxx", "ucp")),
    reason="none of ucxx, ucp is installed",
)


class Reader:
    """Connections of both purposes and a port."""

    def __init__(self, rig) -> None:
        from kv_transfer.transports.ucx_port import find_ucx

        self.control, self.data = (self.member(rig, name) for name in ("control", "ucx"))
        self.port = find_ucx()("lo", b"")
        self.data.send(Meet(self.port.address))
        assert isinstance(self.data.receive_one(5.0), Pong)

    def member(self, rig, purpose: str) -> Channel:
        channel = Channel(socket.create_connection((rig.address.host, rig.address.port)), 5.0)
        join(channel, SECRET, purpose, Identity("worker-1", 7, rig.source.layout.signature), 5.0)
        return channel

    def attach(self, handle_id: bytes) -> None:
        self.control.send(Attach(1, handle_id))
        self.control.receive_one(5.0)

    def receive(self, num_bytes: int, tag: int) -> bytes:
        staging = Staging(num_bytes)
        request = self.port.receive(staging.view(num_bytes), tag)
        while not request.is_done():
            self.port.progress()
            if not request.is_done() and self.port.rest():
                fds = [self.port.fd, self.data.fd]
                assert wait_readable(fds, PATIENCE_S), "no message came"
                assert not self.data.receive()
        return bytes(staging.view(num_bytes))

    def is_closed(self) -> bool:
        try:
            while True:
                self.data.receive_one(5.0)
        except TransferError as error:
            return error.reason is FailReason.PEER_LOST

    def close(self) -> None:
        self.port.close()
        self.control.close()
        self.data.close()


@pytest.fixture
def rig(make_rig):
    return make_rig(transport="ucx", config=TransferConfig(piece_bytes=20_000))


@pytest.fixture
def reader(rig):
    made = Reader(rig)
    yield made
    made.close()


def test_a_read_is_answered_by_the_bytes_of_its_regions(rig, reader):
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    reader.attach(handle.handle_id)
    reader.data.send(Read(77, handle.handle_id, 2, 4, 1, 4))
    size = rig.source.layout.region_bytes
    got = reader.receive(6 * size, 77)
    assert got == rig.source.view[2:4, BLOCKS[1:4]].tobytes()


def test_a_read_of_a_handle_that_has_ended_is_answered_by_zeros(rig, reader):
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    size = rig.source.layout.region_bytes
    reader.attach(handle.handle_id)
    reader.data.send(Read(5, handle.handle_id, 0, 1, 0, 4))
    assert any(reader.receive(4 * size, 5))
    rig.exporter.abort(1, "over")
    reader.data.send(Read(6, handle.handle_id, 0, 1, 0, 4))
    assert not any(reader.receive(4 * size, 6))


def test_a_handle_that_nobody_attached_is_not_read(rig, reader):
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    reader.data.send(Read(5, handle.handle_id, 0, 1, 0, 4))
    assert not any(reader.receive(4 * rig.source.layout.region_bytes, 5))
    rig.exporter.abort(1, "the test is over")


OUTSIDE = [(0, 7, 0, 3), (0, 6, 0, 5), (3, 3, 0, 1), (5, 2, 0, 1), (0, 1, 2**31, 2**32 - 1)]
TOO_LONG = (0, 6, 0, 4)


@pytest.mark.parametrize("bounds", [*OUTSIDE, TOO_LONG])
def test_reads_outside_of_the_prompt_or_too_long_close_the_connection(rig, reader, bounds):
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    reader.attach(handle.handle_id)
    reader.data.send(Read(5, handle.handle_id, *bounds))
    assert reader.is_closed()


def test_a_read_ahead_of_prefill_closes_the_connection(rig, reader):
    handle = rig.exporter.publish(1, BLOCKS, NUM_TOKENS, 32)
    reader.attach(handle.handle_id)
    reader.data.send(Read(5, handle.handle_id, 0, 1, 0, 3))
    assert reader.is_closed()
    rig.exporter.abort(1, "the test is over")


def test_another_frame_closes_the_connection(rig, reader):
    reader.data.send(Ping(1))
    assert reader.is_closed()


def test_a_pull_received_in_place_is_fenced_when_its_source_freezes(start):
    """What the source sends once it goes on again does not reach blocks that were given back."""
    source = start("source", transport="ucx")
    reader = start("reader", transport="ucx", rate_bytes_s=2e6, piece_bytes=1 << 18)
    reader.outlast_frozen(source)


@pytest.mark.parametrize("is_run", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3, 32])
@pytest.mark.parametrize("region_bytes", [4096, 32 << 10, 3 << 20])
def test_a_read_is_cut_into_messages_of_two_mib_in_order(region_bytes, num_layers, is_run):
    from kv_transfer.transports.ucx import cut

    piece = Piece(2, 2 + num_layers, 5, 105)
    parts = list(cut(piece, piece.num_regions * region_bytes, is_run))
    cursor = Cursor(piece)
    assert all(cursor.accept(part) for part in parts) and not cursor.num_left
    layers = [part.end_layer - part.first_layer for part in parts]
    sizes = [part.num_regions * region_bytes for part in parts]
    whole = [part.end_index - part.first_index == 100 for part in parts]
    assert max(sizes) <= max(2 << 20, region_bytes) or (is_run and max(layers) == 1)
    assert not is_run or all(whole)
    assert all(whole[at] or layers[at] == 1 for at in range(len(parts)))


class Messages:
    """A port whose messages never come, and what was done with it."""

    def __init__(self, inner) -> None:
        self.inner, self.fd, self.address = inner, inner.fd, inner.address
        self.is_held, self.is_closed = True, False
        self.asked: list[int] = []  # bytes of each message

    @property
    def num_asked(self) -> int:
        return len(self.asked)

    def receive(self, buffer, tag):
        self.asked.append(len(buffer))
        return self.inner.receive(buffer, tag)

    def progress(self) -> None:
        if not self.is_held:
            self.inner.progress()

    def rest(self) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = True
        self.inner.close()


def lane_opener(ports: "list[Messages]", num_held: int):
    """Lanes whose ports are left here; the first ones hold their messages back."""
    from kv_transfer.transports.ucx import UcxLane
    from kv_transfer.transports.ucx_port import find_ucx

    def open_port(devices, peer):
        port = Messages(find_ucx()(devices, peer))
        port.is_held = len(ports) < num_held
        ports.append(port)
        return port

    return lambda context: UcxLane(open_port, context)


@pytest.mark.parametrize("is_run, num_regions", [(True, [4, 4, 1]), (False, [2, 2, 2, 2, 1])])
def test_pieces_of_a_run_that_wait_travel_two_as_one_message(make_rig, is_run, num_regions):
    layout = KVLayout(1, 80, 2, 16, 8, "float32")
    ports: list[Messages] = []
    rig = make_rig(
        transport="ucx",
        layout=layout,
        config=TransferConfig(piece_bytes=2 * layout.region_bytes),
        more_transports={"ucx": lane_opener(ports, 0)},
    )
    blocks = list(range(9))
    target = [*range(20, 29)] if is_run else [*range(20, 38, 2)]
    assert rig.pull(rig.publish_whole(1, blocks, 144), target).ok
    assert [size // layout.region_bytes for size in ports[0].asked] == num_regions
    rig.assert_copied(blocks, target)


def test_a_dropped_message_that_does_not_come_costs_the_port_and_no_other_pull(make_rig, until):
    """Two pulls into places; the one is cancelled, the other asks again by another port."""
    ports: list[Messages] = []
    rig = make_rig(
        transport="ucx",
        layout=KVLayout(1, 80, 2, 16, 8, "float32"),
        more_transports={"ucx": lane_opener(ports, 1)},
    )
    blocks = list(range(8))
    dropped, results = rig.begin(rig.publish_whole(1, blocks, 128), blocks)
    _, kept = rig.begin(rig.publish_whole(2, blocks, 128), [*range(20, 28)])
    until(lambda: bool(ports) and ports[0].num_asked == 2)
    rig.importer.cancel(dropped)
    assert results.get(timeout=PATIENCE_S).reason is FailReason.CANCELLED
    assert kept.get(timeout=PATIENCE_S).ok
    assert [port.is_closed for port in ports] == [True, False]
    rig.assert_copied(blocks, [*range(20, 28)])
