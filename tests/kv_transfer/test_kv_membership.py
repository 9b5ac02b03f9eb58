"""Who may read, and what nonsense on the ports does: nothing but a closed connection."""

import random
import socket
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.channel import Channel
from kv_transfer.config import TransferConfig
from kv_transfer.control import (
    MAX_FRAME_BYTES,
    Attach,
    Challenge,
    Complete,
    Digests,
    FrameBuffer,
    Hello,
    Ping,
    Read,
    Ready,
    Release,
    Released,
    Welcome,
    encode,
)
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity, join

SECRET = b"a cluster's secret"
BLOCKS = [3, 4, 5]


def member(rig, purpose: str) -> Channel:
    channel = Channel(socket.create_connection((rig.address.host, rig.address.port)), 5.0)
    identity = Identity("worker-1", 7, rig.source.layout.signature)
    join(channel, SECRET, purpose, identity, 5.0)
    return channel


def is_closed(channel: Channel) -> bool:
    """The source ends the connection, perhaps after frames that were under way."""
    try:
        while True:
            channel.receive_one(5.0)
    except TransferError as error:
        return error.reason is FailReason.PEER_LOST


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_a_wrong_secret_reads_nothing(make_rig, transport):
    rig = make_rig(transport=transport, reader_secret=b"another secret")
    result = rig.pull(rig.publish_whole(1, BLOCKS, 48), BLOCKS)
    assert (result.ok, result.reason) == (False, FailReason.NOT_A_MEMBER)
    assert not rig.target.view.any()
    assert rig.exporter.num_active == 1


def test_a_source_that_does_not_know_the_secret_is_not_trusted():
    reader, source = socket.socketpair()
    with reader, source:
        impostor, channel = Channel(source, 5.0), Channel(reader, 5.0)
        impostor.send(Challenge(b"n" * 32))
        impostor.send(Welcome(b"p" * 32, 64, "L1"))
        with pytest.raises(TransferError) as caught:
            join(channel, SECRET, "control", Identity("w", 1, "L1"), 5.0)
        assert caught.value.reason is FailReason.NOT_A_MEMBER


def test_another_layout_is_a_typed_refusal(make_rig):
    rig = make_rig(reader_heads=3)
    result = rig.pull(rig.publish_whole(1, BLOCKS, 48), BLOCKS)
    assert result.reason is FailReason.LAYOUT_MISMATCH
    assert "L6H3B16D8:float32" in result.error


def test_a_restarted_source_refuses_readers_of_its_earlier_life(make_rig):
    rig = make_rig()
    handle = rig.publish_whole(1, BLOCKS, 48)
    port = rig.address.port
    rig.exporter.close()
    rig.exporter = rig.new_exporter(epoch=8)
    rig.exporter.start("127.0.0.1", port)
    assert rig.pull(handle, BLOCKS).reason is FailReason.STALE_PEER
    assert rig.pull(rig.publish_whole(2, BLOCKS, 48), BLOCKS).ok


def test_a_source_that_is_not_there_fails_at_once(make_rig):
    rig = make_rig()
    handle = rig.publish_whole(1, BLOCKS, 48)
    rig.exporter.close()
    assert rig.pull(handle, BLOCKS).reason is FailReason.UNREACHABLE


def test_a_forced_transport_never_becomes_another(make_rig):
    rig = make_rig(transport="rdma")
    result = rig.pull(rig.publish_whole(1, BLOCKS, 48), BLOCKS)
    assert result.reason is FailReason.TRANSPORT
    assert "no such transport" in result.error


def test_the_automatic_choice_on_one_host_is_shm(make_rig):
    rig = make_rig(transport="auto")
    assert rig.pull(rig.publish_whole(1, BLOCKS, 48), BLOCKS).transport == "shm"
    assert rig.importer.num_fallbacks == 0


def test_a_fallback_to_tcp_works_and_is_counted(make_rig):
    rig = make_rig(transport="auto")
    handle = rig.publish_whole(1, BLOCKS, 48)
    lost = replace(handle, address=replace(handle.address, shm_path="@nobody-listens-here"))
    result = rig.pull(lost, BLOCKS)
    assert (result.ok, result.transport, rig.importer.num_fallbacks) == (True, "tcp", 1)


def test_another_host_is_read_by_tcp_and_that_is_no_fallback(make_rig):
    rig = make_rig(transport="auto")
    handle = rig.publish_whole(1, BLOCKS, 48)
    far = replace(handle, address=replace(handle.address, host_id="another boot"))
    result = rig.pull(far, BLOCKS)
    assert (result.ok, result.transport, rig.importer.num_fallbacks) == (True, "tcp", 0)


@pytest.mark.parametrize(
    "frame",
    [
        Read(1, b"h" * 16, 0, 1, 0, 1),
        Challenge(b"n" * 32),
        Complete(1, (2,)),
        Ready(1, 2, 3, 4),
    ],
)
def test_a_frame_in_the_wrong_place_closes_the_connection(make_rig, frame):
    channel = member(make_rig(), "control")
    channel.send(frame)
    assert is_closed(channel)
    channel.close()


def test_a_read_outside_of_the_published_blocks_closes_the_connection(make_rig):
    rig = make_rig()
    handle_id = rig.publish_whole(1, BLOCKS, 48).handle_id
    control = member(rig, "control")
    control.send(Attach(9, handle_id))
    control.receive_one(5.0)
    for bounds in [
        (0, 7, 0, 3),
        (0, 6, 0, 4),
        (3, 3, 0, 1),
        (5, 2, 0, 1),
        (0, 1, 2**31, 2**32 - 1),
    ]:
        data = member(rig, "data")
        data.send(Read(9, handle_id, *bounds))
        assert is_closed(data)
        data.close()
    control.close()


def test_releasing_twice_is_answered_and_frees_once(make_rig):
    rig = make_rig()
    handle_id = rig.publish_whole(1, BLOCKS, 48).handle_id
    control = member(rig, "control")
    control.send(Attach(9, handle_id), Release(9), Release(9))
    answers = [control.receive_one(5.0) for _ in range(3)]
    assert answers[1:] == [Released(9, True), Released(9, False)]
    assert rig.released == [1]
    control.close()


def test_a_data_connection_cannot_read_a_handle_that_nobody_attached(make_rig):
    rig = make_rig()
    handle_id = rig.publish_whole(1, BLOCKS, 48).handle_id
    data = member(rig, "data")
    data.send(Read(9, handle_id, 0, 6, 0, 3))
    with pytest.raises(TransferError) as caught:
        data.receive_one(0.2)
    assert caught.value.reason is FailReason.PEER_HUNG
    data.close()


def test_a_stranger_that_says_nothing_is_sent_away(make_rig):
    rig = make_rig(config=TransferConfig(connect_s=0.2))
    with socket.create_connection((rig.address.host, rig.address.port)) as silent:
        silent.settimeout(30.0)
        while silent.recv(4096):
            pass


def test_connections_over_the_limit_are_closed(make_rig):
    rig = make_rig(config=TransferConfig(max_connections=2))
    kept = [member(rig, "control") for _ in range(2)]
    with socket.create_connection((rig.address.host, rig.address.port)) as extra:
        extra.settimeout(30.0)
        assert extra.recv(4096) == b""
    for channel in kept:
        channel.close()


def mutated(rng: random.Random, good: bytes) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 200))
    if kind == 1:
        return struct.pack("<I", rng.randrange(2**32)) + rng.randbytes(rng.randrange(64))
    if kind == 2:
        body = rng.randbytes(rng.randrange(1, 64))
        return struct.pack("<I", len(body)) + body
    changed = bytearray(good)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


FRAMES_A_CONNECTION = 20


def port_of(rig, purpose: str | None) -> socket.socket:
    """A connection: of a stranger by TCP or Unix socket, or of a member."""
    if purpose == "stranger, unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect("\0" + rig.address.shm_path.removeprefix("@"))
        return sock
    if purpose == "stranger, tcp":
        return socket.create_connection((rig.address.host, rig.address.port))
    return member(rig, purpose).sock


@pytest.mark.parametrize(
    "num_frames", [2_000, pytest.param(25_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
@pytest.mark.parametrize("purpose", ["stranger, tcp", "stranger, unix", "control", "data"])
def test_thousands_of_fuzzed_frames_do_not_harm_the_source(make_rig, purpose, num_frames):
    """Four ports of 25,000 each are 100,000."""
    rig = make_rig()
    rng = random.Random(7)
    handle_id = rig.exporter.publish(1, BLOCKS, 48, 48).handle_id
    good = [
        encode(Attach(1, handle_id)),
        encode(Attach(2, handle_id, (0, 1, 3, 40), 0, 1, 0)),
        encode(Release(1)),
        encode(Ping(3)),
        encode(Read(1, handle_id, 0, 6, 0, 3)),
        encode(Read(1, handle_id, 0, 6, 0, 3, (0, 1, 3, 40))),
        encode(Digests(1, (2, 3), (2**64 - 1, 0))),
        encode(Hello("control", b"n" * 32, b"p" * 32, "worker-1", 7, "x")),
    ]
    for _ in range(num_frames // FRAMES_A_CONNECTION):
        frames = (mutated(rng, rng.choice(good)) for _ in range(FRAMES_A_CONNECTION))
        with port_of(rig, purpose) as sock:
            try:
                sock.sendall(b"".join(frames))
            except (BrokenPipeError, ConnectionResetError):
                continue
    assert rig.pull(rig.publish_whole(2, BLOCKS, 48), BLOCKS).ok
    rig.exporter.abort(1, "the test is over")


@pytest.mark.parametrize(
    "window", [(0, 3, 0, 48), (2, 1, 0, 48), (0, 2, 0, 49), (0, 2, 30, 20), (2**31, 2**31, 0, 1)]
)
@pytest.mark.parametrize("purpose", ["control", "data"])
def test_a_window_outside_of_the_prompt_closes_the_connection(make_rig, window, purpose):
    rig = make_rig()
    handle_id = rig.publish_whole(1, BLOCKS, 48).handle_id
    control = member(rig, "control")
    if purpose == "control":
        control.send(Attach(9, handle_id, window))
        assert is_closed(control)
    else:
        control.send(Attach(9, handle_id))
        control.receive_one(5.0)
        data = member(rig, "data")
        data.send(Read(9, handle_id, 0, 6, 0, 3, window))
        assert is_closed(data)
        data.close()
    control.close()


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_frames_or_malformed(data, step):
    buffer = FrameBuffer()
    try:
        for at in range(0, len(data), step):
            buffer.feed(data[at : at + step])
    except TransferError as error:
        assert error.reason is FailReason.MALFORMED


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50), st.integers(1, 30))
def test_frames_survive_any_cut_of_the_stream(tokens, step):
    frames = [Complete(5, tuple(tokens)), Ping(9), Ready(1, 2, 3, 4)]
    stream = b"".join(encode(frame) for frame in frames)
    buffer = FrameBuffer()
    got = [f for at in range(0, len(stream), step) for f in buffer.feed(stream[at : at + step])]
    assert got == frames


def test_a_frame_that_claims_to_be_huge_is_refused_before_it_is_read():
    with pytest.raises(TransferError) as caught:
        FrameBuffer().feed(struct.pack("<I", MAX_FRAME_BYTES + 1))
    assert caught.value.reason is FailReason.MALFORMED
