"""Digests: what is corrupt is found, told apart from an ended lease, and its source avoided."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.config import TransferConfig
from kv_transfer.digests import DigestWalk, RegionHasher, Sample, Verification
from kv_transfer.errors import FailReason
from kv_transfer.handshake import Identity
from kv_transfer.plan import Piece
from kv_transfer.quarantine import Quarantine
from kv_transfer.transports.faulty import Faults
from runtime.clock import VirtualClock
from wire.kv import KVLayout

BLOCKS = list(range(40))
NUM_TOKENS = 640
NUM_REGIONS = 6 * 40
ALL = TransferConfig(verify_share=1.0)

transports = pytest.mark.parametrize("transport", ["memory", "shm", "tcp", "nixl", "ucx"])


@transports
def test_a_corrupt_block_fails_its_pull_when_all_are_verified(make_rig, until, transport):
    rig = make_rig(transport=transport, faults=Faults(corrupt_at=1), config=ALL)
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (result.ok, result.reason) == (False, FailReason.CORRUPT)
    assert "block 0 of layer 0 is not what worker-1 holds" in result.error
    until(lambda: rig.released == [1])
    again = rig.pull(rig.publish_whole(2, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (again.ok, again.num_verified) == (True, NUM_REGIONS)
    rig.assert_copied(BLOCKS, BLOCKS)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_much_that_is_verified_is_hashed_beside_the_copy(make_rig, until, transport):
    """A piece of 4 MiB is more than the link's thread hashes itself."""
    layout = KVLayout(3, 160, 2, 16, 512, "float32")
    config = TransferConfig(verify_share=1.0, piece_bytes=4 << 20)
    rig = make_rig(transport=transport, layout=layout, config=config, faults=Faults(corrupt_at=1))
    blocks = list(range(64))
    result = rig.pull(rig.publish_whole(1, blocks, 64 * 16), blocks)
    assert (result.ok, result.reason) == (False, FailReason.CORRUPT)
    until(lambda: rig.released == [1])
    result = rig.pull(rig.publish_whole(2, blocks, 64 * 16), blocks)
    assert (result.ok, result.num_verified) == (True, 3 * 64)
    rig.assert_copied(blocks, blocks)


@transports
def test_one_pull_can_ask_for_every_block_to_be_verified(make_rig, transport):
    rig = make_rig(transport=transport, config=TransferConfig(verify_share=0.0))
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    assert rig.pull(handle, BLOCKS).num_verified == 0
    asked = rig.pull(rig.publish_whole(2, BLOCKS, NUM_TOKENS), BLOCKS, skip=5, verify_share=1.0)
    assert asked.num_verified == 6 * 35


@transports
def test_a_twentieth_of_the_regions_is_verified_unless_asked_otherwise(make_rig, transport):
    rig = make_rig(transport=transport)
    for export_id in range(5):
        handle = rig.publish_whole(export_id, BLOCKS, NUM_TOKENS)
        assert rig.pull(handle, BLOCKS).num_verified == NUM_REGIONS // 20


def test_a_sampled_corruption_is_found_by_the_pull_that_samples_it(make_rig):
    """Successive pulls sample other regions: some pull of twenty looks at the first one."""
    config = TransferConfig(strikes=100)
    faults = Faults(corrupt_at=1, corrupts_on=True)
    rig = make_rig(transport="shm", faults=faults, config=config)
    reasons = [
        rig.pull(rig.publish_whole(export_id, BLOCKS, NUM_TOKENS), BLOCKS).reason
        for export_id in range(20)
    ]
    assert reasons.count(FailReason.CORRUPT) == 1
    assert reasons.count(None) == 19


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_digests_follow_the_watermark(make_rig, until, transport):
    rig = make_rig(transport=transport, config=ALL)
    handle = rig.exporter.publish(1, BLOCKS, NUM_TOKENS, 0)
    original = rig.source.view.copy()
    rig.source.view[:, BLOCKS] = 0  # not computed yet
    _, results = rig.begin(handle, BLOCKS)
    for num_layers in range(1, 7):
        rig.source.view[num_layers - 1] = original[num_layers - 1]
        rig.exporter.advance(1, NUM_TOKENS, num_layers)
        until(lambda at=num_layers - 1: rig.target.view[at, 39].any())
    rig.exporter.complete(1, (1,))
    result = results.get(timeout=20)
    assert (result.reason, result.num_verified) == (None, NUM_REGIONS)
    assert np.array_equal(original[:, BLOCKS], rig.target.view[:, BLOCKS])


def test_three_corrupt_pulls_quarantine_the_source_and_its_blocks_come_back_at_once(
    make_rig, until
):
    faults = Faults(corrupt_at=1, corrupts_on=True)
    config = TransferConfig(verify_share=1.0, quarantine_s=600.0, lease_s=600.0)
    rig = make_rig(transport="shm", faults=faults, config=config)
    for export_id in range(3):
        handle = rig.publish_whole(export_id, BLOCKS, NUM_TOKENS)
        assert rig.pull(handle, BLOCKS).reason is FailReason.CORRUPT
    rig.target.view[:] = 0xDD
    refused = rig.pull(rig.publish_whole(3, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (refused.ok, refused.reason) == (False, FailReason.QUARANTINED)
    assert "worker-1" in refused.error
    until(lambda: sorted(rig.released) == [0, 1, 2, 3])
    assert (rig.target.view == 0xDD).all()


def test_blocks_that_were_reused_are_an_ended_lease_and_no_strike(make_rig, until):
    """A reader that slept through its lease reads other bytes; its source did nothing wrong."""
    clock = VirtualClock()
    config = TransferConfig(verify_share=1.0, strikes=1, piece_bytes=20_000, heartbeat_s=60.0)
    rig = make_rig(transport="shm", clock=clock, config=config, faults=Faults(rate_bytes_s=2e6))
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    _, results = rig.begin(handle, BLOCKS)
    until(lambda: rig.target.view.any())
    clock.advance(31.0)
    until(lambda: rig.released == [1])
    rig.source.view[:] = 0
    assert results.get(timeout=20).reason is FailReason.LEASE_EXPIRED
    _, again = rig.begin(rig.publish_whole(2, BLOCKS, NUM_TOKENS), BLOCKS)
    until(lambda: clock.advance(0.01) or not again.empty())
    assert again.get().ok


SOURCE = Identity("s", 1, "L1")


def test_a_quarantine_ends_and_one_strike_on_probation_brings_it_back():
    quarantine = Quarantine(limit=3, window_s=60.0)
    assert [quarantine.strike(SOURCE, at) for at in (0.0, 1.0, 2.0)] == [False, False, True]
    assert quarantine.left_s(SOURCE, 2.0) == 60.0
    assert quarantine.left_s(SOURCE, 62.0) == 0.0
    assert quarantine.left_s(Identity("s", 2, "L1"), 2.0) == 0.0
    assert quarantine.strike(SOURCE, 70.0)
    assert quarantine.left_s(SOURCE, 70.0) == 60.0


def test_strikes_that_are_far_apart_do_not_add_up():
    quarantine = Quarantine(limit=3, window_s=60.0)
    assert not any(quarantine.strike(SOURCE, 40.0 * at) for at in range(10))


@given(
    num_layers=st.integers(1, 5),
    num_blocks=st.integers(1, 30),
    every=st.integers(1, 40),
    data=st.data(),
)
def test_a_sample_is_every_nth_region_whatever_the_pieces(num_layers, num_blocks, every, data):
    phase = data.draw(st.integers(0, every - 1))
    skip = data.draw(st.integers(0, num_blocks))
    sample = Sample(num_blocks, every, phase)
    want = {
        (layer, index)
        for layer in range(num_layers)
        for index in range(skip, num_blocks)
        if (layer * num_blocks + index) % every == phase
    }
    names = {layer * num_blocks + index for layer, index in want}
    whole = Piece(0, num_layers, skip, num_blocks)
    assert {(layer, at) for layer, indices in sample.rows(whole) for at in indices} == want
    assert sample.count(whole) == len(want)
    layout = KVLayout(num_layers, num_blocks, 1, 1, 1, "float32", is_latent=True)
    buffer = memoryview(bytes(at % 256 for at in range(layout.pool_bytes)))
    walk = DigestWalk(RegionHasher(sample, buffer, layout, range(num_blocks)), whole)
    taken: list[int] = []
    for ready in sorted(data.draw(st.lists(st.integers(0, num_blocks), max_size=4))) + [num_blocks]:
        while digests := walk.take([ready] * num_layers, data.draw(st.integers(1, 9))):
            taken += digests
    assert walk.is_done
    assert sorted(taken) == sorted(names)


@given(st.floats(0.001, 1.0), st.integers(0, 10**6))
def test_a_share_is_met_and_tickets_sweep_over_the_regions(share, ticket):
    samples = [Sample.share(100, share, ticket + at) for at in range(round(1 / share))]
    assert {sample.every for sample in samples} == {round(1 / share)}
    assert len({sample.phase for sample in samples}) == len(samples)


def test_no_share_is_no_sample():
    assert list(Sample.share(100, 0.0, 7).rows(Piece(0, 4, 0, 100))) == []


FLAT = KVLayout(2, 30, 1, 1, 10, "float32", is_latent=True)


def hasher(buffer, every=1, mapped=None):
    return RegionHasher(Sample(30, every, 0), memoryview(buffer), FLAT, range(30), mapped)


def test_a_digest_over_parts_is_that_of_the_bytes_in_a_row():
    buffer = bytes(at % 251 for at in range(FLAT.pool_bytes))
    piece = Piece(0, 2, 3, 9)

    def halves(layer, index):
        start = FLAT.offset_bytes(layer, index)
        return (start, 15), (start + 15, 25)

    assert hasher(buffer).digests(piece) == hasher(buffer, mapped=halves).digests(piece)


@given(
    wrong=st.sets(st.tuples(st.integers(0, 1), st.integers(4, 29)), max_size=4),
    every=st.integers(1, 7),
    cuts=st.lists(st.integers(4, 30), max_size=4),
    rng=st.randoms(use_true_random=False),
)
def test_a_verification_names_the_first_sampled_region_that_differs(wrong, every, cuts, rng):
    good = bytes(at % 251 for at in range(FLAT.pool_bytes))
    bad = bytearray(good)
    for layer, index in wrong:
        bad[FLAT.offset_bytes(layer, index) + rng.randrange(FLAT.region_bytes)] ^= 1 << 3
    whole = Piece(0, 2, 4, 30)
    verification = Verification(hasher(bad, every), whole)
    edges = sorted({4, 30, *cuts})
    pieces = [
        Piece(layer, layer + 1, first, end)
        for layer in range(2)
        for first, end in zip(edges, edges[1:], strict=False)
    ]
    rng.shuffle(pieces)
    theirs = list(hasher(good, every).digests(whole).items())
    rng.shuffle(theirs)
    for piece in pieces:
        verification.arrived(piece)
        if rng.random() < 0.5:
            verification.hash(verification.take())
        batch = [theirs.pop() for _ in range(min(len(theirs), 5))]
        verification.told([name for name, _ in batch], [value for _, value in batch])
        assert not verification.is_done or not (theirs or verification.num_waiting)
    verification.hash(verification.take())
    verification.told([name for name, _ in theirs], [value for _, value in theirs])
    assert verification.is_done
    names = sorted(30 * layer + index for layer, index in wrong)
    want = [name for name in names if name % every == 0]
    assert verification.bad_region() == (want[0] if want else None)


def test_a_quarantine_is_known_to_every_link(make_rig: Callable):
    """Strikes belong to the source, not to the connection: a new one starts quarantined."""
    faults = Faults(corrupt_at=1, corrupts_on=True)
    config = TransferConfig(verify_share=1.0, strikes=1)
    rig = make_rig(transport="tcp", faults=faults, config=config)
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    assert rig.pull(handle, BLOCKS).reason is FailReason.CORRUPT
    handle = rig.publish_whole(2, BLOCKS, NUM_TOKENS)
    port = rig.address.port
    rig.exporter.close()
    rig.exporter = rig.new_exporter(epoch=7)
    rig.exporter.start("127.0.0.1", port)
    again = rig.publish_whole(3, BLOCKS, NUM_TOKENS)
    assert rig.pull(again, BLOCKS).reason is FailReason.QUARANTINED
    rig.exporter.abort(3, "the test is over")
