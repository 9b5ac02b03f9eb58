"""What a tcp lane does with its small reads, and with frames however they come."""

import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.channel import Channel
from kv_transfer.config import TransferConfig
from kv_transfer.control import FrameBuffer, Ping, encode
from kv_transfer.handshake import Identity
from kv_transfer.mapping import Mapping
from kv_transfer.memory import KVMemory
from kv_transfer.plan import Piece
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports import tcp
from kv_transfer.transports.small_reads import SmallReads
from runtime.clock import SystemClock
from wire.kv import FabricAddress, KVLayout

LAYOUT = KVLayout(2, 40, 1, 16, 32, "float32")  # regions of 4 KiB
NUM_BLOCKS = 12
SIZE = LAYOUT.region_bytes
ORDER = tuple(range(30, 30 - NUM_BLOCKS, -1))


def read_of(ticket: int, piece: Piece, wire_format: str = "as_is") -> ReadOp:
    mapping = Mapping.of(LAYOUT, LAYOUT, NUM_BLOCKS * LAYOUT.block_size, 0)
    blocks = tuple(range(NUM_BLOCKS))
    return ReadOp(ticket, bytes(16), piece, blocks, ORDER, mapping, wire_format)


def header_of(ticket: int, piece: Piece) -> tuple[int, ...]:
    bounds = piece.first_layer, piece.end_layer, piece.first_index, piece.end_index
    return (ticket, *bounds, piece.num_regions * SIZE)


def regions(piece: Piece) -> bytes:
    """Each region's bytes tell which one it is."""
    layers, indices = (
        range(piece.first_layer, piece.end_layer),
        range(piece.first_index, piece.end_index),
    )
    return b"".join(
        bytes([100 * layer + index + 1]) * SIZE for layer in layers for index in indices
    )


def assert_written(pool: np.ndarray, piece: Piece) -> None:
    view = pool.reshape(LAYOUT.num_layers, LAYOUT.num_blocks, SIZE)
    for layer in range(piece.first_layer, piece.end_layer):
        for index in range(piece.first_index, piece.end_index):
            assert (view[layer, ORDER[index]] == 100 * layer + index + 1).all()


@pytest.fixture
def memory() -> Iterator[KVMemory]:
    memory = KVMemory.allocate(LAYOUT.pool_bytes)
    yield memory
    memory.close()


def pool_of(memory: KVMemory) -> np.ndarray:
    return np.frombuffer(bytes(memory.buffer), np.uint8)


def test_a_small_read_is_written_when_its_whole_answer_is_here(memory: KVMemory):
    small, piece = SmallReads(memory.buffer, 4 * SIZE), Piece(0, 2, 3, 5)
    small.add(read_of(7, piece))
    moved = small.take(header_of(7, piece), memoryview(regions(piece) + b"what follows"))
    assert moved == Moved(7, 4 * SIZE, (piece,))
    assert_written(pool_of(memory), piece)
    assert small.take(header_of(7, piece), memoryview(regions(piece))) is None


@pytest.mark.parametrize(
    "header, num_bytes",
    [
        (header_of(8, Piece(0, 2, 3, 5)), 4 * SIZE),
        (header_of(7, Piece(0, 1, 3, 5)), 2 * SIZE),
        (header_of(7, Piece(0, 2, 4, 6)), 4 * SIZE),
        (header_of(7, Piece(0, 2, 3, 5)), 4 * SIZE - 1),
    ],
    ids=["another read's", "a part", "not asked for", "not whole yet"],
)
def test_another_frame_writes_nothing(memory: KVMemory, header: tuple[int, ...], num_bytes: int):
    small = SmallReads(memory.buffer, 4 * SIZE)
    small.add(read_of(7, Piece(0, 2, 3, 5)))
    assert small.take(header, memoryview(b"x" * num_bytes)) is None
    assert not pool_of(memory).any()


def test_what_is_larger_encoded_or_dropped_is_no_small_read(memory: KVMemory):
    small, piece = SmallReads(memory.buffer, 4 * SIZE), Piece(0, 1, 0, 4)
    small.add(read_of(1, Piece(0, 1, 0, 5)))
    small.add(read_of(2, piece, "packed"))
    small.add(read_of(3, piece))
    small.drop(3)
    for ticket in (1, 2, 3):
        assert small.take(header_of(ticket, piece), memoryview(regions(piece))) is None
    assert not small.is_worth_a_look


def test_looks_end_when_nothing_comes_and_with_the_last_small_read(memory: KVMemory):
    small, piece = SmallReads(memory.buffer, 4 * SIZE), Piece(0, 1, 0, 1)
    assert not small.is_worth_a_look
    small.add(read_of(1, piece))
    num_looks = 0
    while small.is_worth_a_look:
        small.looked()
        num_looks += 1
    assert 0 < num_looks < 100
    small.add(read_of(2, piece))
    assert small.is_worth_a_look
    for ticket in (1, 2):
        assert small.take(header_of(ticket, piece), memoryview(regions(piece))) is not None
    assert not small.is_worth_a_look


@contextmanager
def joined_lane() -> Iterator[tuple[tcp.TcpLane, socket.socket, KVMemory]]:
    """A lane, the source's end of its socket, and the pool that it reads into."""
    mine, theirs = socket.socketpair()
    memory = KVMemory.allocate(LAYOUT.pool_bytes)
    address = FabricAddress("127.0.0.1", 1, "host", "", ("tcp",))
    source, config = Identity("source", 1, LAYOUT.signature), TransferConfig(transport="tcp")
    with pytest.MonkeyPatch.context() as patch, mine:
        patch.setattr(tcp, "dial", lambda address, config: Channel(theirs, 5.0))
        patch.setattr(tcp, "join", lambda *arguments: None)
        lane = tcp.TcpLane(
            LaneContext(address, source, LAYOUT, LAYOUT, memory, b"secret", config, SystemClock())
        )
        yield lane, mine, memory
        lane.close()
    memory.close()


pieces = st.tuples(
    st.integers(0, 1), st.integers(1, 2), st.integers(0, NUM_BLOCKS - 1), st.integers(1, 8)
).map(lambda n: Piece(n[0], min(2, n[0] + n[1]), n[2], min(NUM_BLOCKS, n[2] + n[3])))


def frames_of(ticket: int, piece: Piece, is_cut: bool) -> list[bytes]:
    """The source's answer: whole, or a frame a region, layer by layer."""
    parts = [piece]
    if is_cut:
        parts = [
            Piece(layer, layer + 1, index, index + 1)
            for layer in range(piece.first_layer, piece.end_layer)
            for index in range(piece.first_index, piece.end_index)
        ]
    return [tcp.HEADER.pack(*header_of(ticket, part)) + regions(part) for part in parts]


@settings(max_examples=40)
@given(
    reads=st.lists(st.tuples(pieces, st.booleans(), st.booleans()), min_size=1, max_size=6),
    chunks=st.lists(st.integers(700, 20_000), min_size=1, max_size=8),
)
def test_reads_of_any_size_arrive_whole_however_their_frames_are_cut(
    reads: list[tuple[Piece, bool, bool]], chunks: list[int]
):
    """reads: what is asked for, whether the answer comes in parts, whether it is dropped."""
    asked = dict(enumerate(reads))
    kept = {ticket: piece for ticket, (piece, _, is_dropped) in asked.items() if not is_dropped}
    with joined_lane() as (lane, mine, memory):
        stream = b""
        for ticket, (piece, is_cut, _) in asked.items():
            lane.post(read_of(ticket, piece))
            if ticket not in kept:
                lane.drop(ticket)
            stream += b"".join(frames_of(ticket, piece, is_cut))
        arrived = Counter(deliver(lane, mine, stream, chunks))
        assert arrived == {ticket: piece.num_regions * SIZE for ticket, piece in kept.items()}
        for piece in kept.values():
            assert_written(pool_of(memory), piece)
        assert lane.wait_s() is None


def deliver(
    lane: tcp.TcpLane, source: socket.socket, stream: bytes, chunks: list[int]
) -> dict[int, int]:
    """In chunks of these sizes, again and again; gives the bytes that arrived, by ticket."""
    arrived, at, sizes = Counter[int](), 0, itertools.cycle(chunks)
    while at < len(stream):
        chunk = stream[at : at + next(sizes)]
        source.sendall(chunk)
        at += len(chunk)
        while moved := lane.progress():
            for each in moved:
                arrived[each.ticket] += each.num_bytes
    return arrived


def test_a_frame_that_comes_alone_is_read_like_one_of_many():
    frames = [Ping(1), Ping(2), Ping(3)]
    buffer = FrameBuffer()
    assert [got for frame in frames for got in buffer.feed(encode(frame))] == frames
    data = b"".join(map(encode, frames))
    for cut in range(len(data)):
        assert buffer.feed(data[:cut]) + buffer.feed(data[cut:]) == frames
