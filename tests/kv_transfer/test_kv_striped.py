"""How a read is cut into stripes, and that several connections carry one pull."""

import os
import select
import signal
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.config import TransferConfig
from kv_transfer.errors import TransferError
from kv_transfer.plan import Piece
from kv_transfer.transport import Moved, ReadOp
from kv_transfer.transports.stripe import Stripe
from kv_transfer.transports.striped import stripes
from wire.kv import KVLayout

pieces = st.tuples(
    st.integers(0, 3), st.integers(1, 4), st.integers(0, 900), st.integers(1, 900)
).map(lambda n: Piece(n[0], n[0] + n[1], n[2], n[2] + n[3]))


@given(pieces, st.sampled_from([2048, 32768, 1 << 20, 1 << 22]), st.integers(1, 8))
def test_stripes_are_the_piece_in_order(piece: Piece, region_bytes: int, num_connections: int):
    cut = list(stripes(piece, region_bytes, num_connections))
    assert cut[0].first_index == piece.first_index
    assert cut[-1].end_index == piece.end_index
    for before, after in zip(cut, cut[1:], strict=False):
        assert before.end_index == after.first_index
    assert {(c.first_layer, c.end_layer) for c in cut} == {(piece.first_layer, piece.end_layer)}
    assert len(cut) <= max(1, 4 * num_connections)


def test_one_connection_carries_the_whole_and_small_reads_are_not_cut():
    assert list(stripes(Piece(0, 4, 0, 900), 1 << 20, 1)) == [Piece(0, 4, 0, 900)]
    assert list(stripes(Piece(0, 4, 3, 20), 2048, 4)) == [Piece(0, 4, 3, 20)]


@pytest.mark.parametrize("num_connections", [1, 2, 5])
def test_a_prompt_arrives_whole_over_any_number_of_connections(
    make_rig: Callable, num_connections: int
):
    config = TransferConfig(tcp_connections=num_connections, piece_bytes=1 << 19)
    layout = KVLayout(3, 160, 2, 16, 512, "float32")  # regions of 128 KiB: 8 to a stripe
    rig = make_rig(transport="tcp", config=config, layout=layout)
    source, target = list(range(20, 100)), list(range(63, -1, -1))
    for export_id in range(3):
        rig.target.view[:] = 0
        handle = rig.publish_whole(export_id, source[:64], 64 * 16)
        result = rig.pull(handle, target)
        assert (result.ok, result.error) == (True, "")
        rig.assert_copied(source[:64], target)


def test_a_cancelled_pull_leaves_the_other_stripes_alone(make_rig: Callable, until: Callable):
    layout = KVLayout(3, 160, 2, 16, 512, "float32")
    rig = make_rig(transport="tcp", layout=layout, config=TransferConfig(piece_bytes=1 << 18))
    for export_id in range(0, 20, 2):
        handle = rig.publish_whole(export_id, range(32), 32 * 16)
        ticket, results = rig.begin(handle, range(32))
        rig.importer.cancel(ticket)
        kept = rig.pull(rig.publish_whole(export_id + 1, range(40, 72), 32 * 16), range(32, 64))
        assert kept.ok
        rig.assert_copied(range(40, 72), range(32, 64))
        results.get(timeout=20)
        rig.target.view[:] = 0
    until(lambda: len(rig.released) == 20)
    assert replace(layout, num_blocks=64) == rig.target.layout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_source_that_ends_or_freezes_ends_every_stripe(start: Callable, number: int):
    source = start("source")
    reader = start("reader", transport="tcp", tcp_connections=3)
    reader.tell(do="pull", handle=source.publish(64))
    reader.wait_for_bytes()
    source.signal(number)
    with reader.in_a_hurry():
        result = reader.hear("result")
    assert not result["ok"]
    assert result["reason"] == ("peer_lost" if number == signal.SIGKILL else "peer_hung")


class BrokenLane:
    """Its first move is a mistake of ours."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0)

    def wait_s(self) -> float | None:
        return None

    def post(self, read: object) -> None:
        os.eventfd_write(self.fd, 1)

    def progress(self) -> list[Moved]:
        if not select.select([self.fd], [], [], 0)[0]:
            return []
        raise ZeroDivisionError("ours")

    def close(self) -> None:
        os.close(self.fd)


def test_a_stripe_that_breaks_says_so_and_no_fence_waits_for_it():
    told = threading.Event()
    stripe = Stripe(BrokenLane(), told.set)
    stripe.post(ReadOp(1, b"", Piece(0, 1, 0, 1), (), (), None))
    assert told.wait(30.0)
    with pytest.raises(TransferError, match="ours"):
        stripe.take()
    assert stripe.drop({1}).wait(0.0)
    stripe.post(ReadOp(2, b"", Piece(0, 1, 0, 1), (), (), None))
    stripe.close()
