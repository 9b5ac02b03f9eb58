"""Digests: what is corrupt is found, told apart from an ended lease, and its source avoided."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.config import TransferConfig
from kv_transfer.digests import Comparison, DigestWalk, Sample
from kv_transfer.errors import FailReason
from kv_transfer.handshake import Identity
from kv_transfer.plan import Piece
from kv_transfer.quarantine import Quarantine
from kv_transfer.transports.faulty import Faults
from runtime.clock import VirtualClock

BLOCKS = list(range(40))
NUM_TOKENS = 640
NUM_REGIONS = 6 * 40
ALL = TransferConfig(verify_share=1.0)

transports = pytest.mark.parametrize("transport", ["memory", "shm", "tcp"])


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


@pytest.mark.parametrize("transport", ["shm", "tcp"])
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
    until(lambda: rig.released == [0, 1, 2, 3])
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
    assert set(sample.regions(Piece(0, num_layers, skip, num_blocks))) == want
    buffer = memoryview(bytes(range(num_layers * num_blocks)))
    walk = DigestWalk(
        sample,
        Piece(0, num_layers, skip, num_blocks),
        buffer,
        lambda layer, index: ((sample.name(layer, index), 1),),
    )
    taken: list[int] = []
    for ready in sorted(data.draw(st.lists(st.integers(0, num_blocks), max_size=4))) + [num_blocks]:
        while digests := walk.take([ready] * num_layers, data.draw(st.integers(1, 9))):
            taken += digests
    assert walk.is_done
    assert sorted(taken) == sorted(sample.name(*region) for region in want)


@given(st.floats(0.001, 1.0), st.integers(0, 10**6))
def test_a_share_is_met_and_tickets_sweep_over_the_regions(share, ticket):
    samples = [Sample.share(100, share, ticket + at) for at in range(round(1 / share))]
    assert {sample.every for sample in samples} == {round(1 / share)}
    assert len({sample.phase for sample in samples}) == len(samples)


def test_no_share_is_no_sample():
    assert list(Sample.share(100, 0.0, 7).regions(Piece(0, 4, 0, 100))) == []


def test_a_digest_over_parts_is_that_of_the_bytes_in_a_row():
    buffer = memoryview(bytes(range(200)))
    sample, piece = Sample(1, 1, 0), Piece(0, 1, 0, 1)
    whole, parts = (
        DigestWalk(sample, piece, buffer, lambda layer, index, e=extents: e).take([1], 1)
        for extents in (((10, 90),), ((10, 30), (40, 60)))
    )
    assert whole == parts


@given(
    st.dictionaries(st.integers(0, 50), st.integers(0, 3), max_size=30),
    st.sets(st.integers(0, 50)),
    st.randoms(use_true_random=False),
)
def test_a_comparison_finds_what_differs_in_any_order(ours, wrong, rng):
    theirs = {region: value + 10 * (region in wrong) for region, value in ours.items()}
    halves = [(region, value) for side in (ours, theirs) for region, value in side.items()]
    rng.shuffle(halves)
    comparison = Comparison()
    for region, value in halves:
        comparison.add({region: value})
    assert comparison.is_even
    differing = wrong & set(ours)
    assert (comparison.bad_region in differing) == bool(differing)
    assert comparison.num_compared == len(ours) - len(differing)


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
