"""Each way in which the faulty transport misbehaves, and time limits under a virtual clock."""

import threading

import numpy as np
import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.errors import FailReason
from kv_transfer.transport import Moved
from kv_transfer.transports.faulty import Faults, FaultyLane
from runtime.clock import VirtualClock

BLOCKS = list(range(40))
NUM_TOKENS = 640
IMPATIENT = TransferConfig(slack_s=0.2, expected_bytes_s=1e9)

both = pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])


@both
def test_a_failed_read_fails_the_pull_and_the_next_one_works(make_rig, transport, until):
    rig = make_rig(transport=transport, faults=Faults(fail_at=2))
    assert rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS).ok
    failed = rig.pull(rig.publish_whole(2, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (failed.ok, failed.reason) == (False, FailReason.TRANSPORT)
    until(lambda: sorted(rig.released) == [1, 2])
    assert rig.pull(rig.publish_whole(3, BLOCKS, NUM_TOKENS), BLOCKS).ok


@both
def test_a_dropped_read_times_out(make_rig, transport, until):
    rig = make_rig(transport=transport, faults=Faults(drop_at=1), config=IMPATIENT)
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (result.ok, result.reason) == (False, FailReason.TIMEOUT)
    until(lambda: rig.released == [1])


@both
def test_a_stalled_lane_times_out_and_writes_nothing_later(make_rig, transport, until):
    config = TransferConfig(slack_s=0.6, expected_bytes_s=1e9)
    rig = make_rig(transport=transport, faults=Faults(stall_at=1, stall_s=0.9), config=config)
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert result.reason is FailReason.TIMEOUT
    rig.target.view[:] = 0xCC
    assert rig.pull(rig.publish_whole(2, [50], 16), [60]).ok
    assert (rig.target.view[:, :60] == 0xCC).all()


@both
def test_a_short_stall_is_waited_out(make_rig, transport):
    rig = make_rig(transport=transport, faults=Faults(stall_at=1, stall_s=0.1))
    assert rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS).ok


@both
def test_a_corrupt_read_differs_in_one_bit(make_rig, transport):
    rig = make_rig(transport=transport, faults=Faults(corrupt_at=2))
    assert rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS).ok
    rig.assert_copied(BLOCKS, BLOCKS)
    assert rig.pull(rig.publish_whole(2, BLOCKS, NUM_TOKENS), BLOCKS).ok
    difference = rig.source.view[:, BLOCKS] ^ rig.target.view[:, BLOCKS]
    assert np.count_nonzero(difference) == 1
    assert difference.max() == 1


class SlowLane:
    """Takes a tenth of a virtual second for each move."""

    name, reads_ahead, fd = "slow", False, -1

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.num_moves = 0

    def progress(self) -> list[Moved]:
        self.clock.advance(0.1)
        self.num_moves += 1
        return [Moved(1, 1000, ())]

    def wait_s(self) -> float:
        return 0.0


@pytest.mark.parametrize("slowdown", [2.0, 10.0])
def test_a_slowed_lane_takes_so_many_times_as_long(slowdown):
    clock = VirtualClock(100.0)
    inner = SlowLane(clock)
    lane = FaultyLane(inner, Faults(slowdown=slowdown), None, clock)
    told = 0
    begin_s = clock.now()
    for _ in range(1000):
        told += sum(moved.num_bytes for moved in lane.progress())
        clock.advance(0.01)
    assert told == pytest.approx(1000 * inner.num_moves, abs=1000)
    assert (clock.now() - begin_s) / inner.num_moves == pytest.approx(0.1 * slowdown, rel=0.1)


@both
def test_a_throttled_link_takes_its_bytes_over_its_rate(make_rig, transport):
    config = TransferConfig(piece_bytes=20_000)
    rig = make_rig(transport=transport, faults=Faults(rate_bytes_s=2e6), config=config)
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert result.ok
    assert 0.7 * result.num_bytes / 2e6 < result.transfer_s < 3.0 * result.num_bytes / 2e6 + 20.0


@both
def test_streaming_hides_what_prefill_takes_longer_than(make_rig, transport):
    """Only the bytes of the last layer group are exposed on a slow link."""
    config = TransferConfig(piece_bytes=20_000)
    rig = make_rig(transport=transport, faults=Faults(rate_bytes_s=4e6), config=config)
    assert rig.pull(rig.publish_whole(0, [50], 16), [60]).ok  # opens the link
    layer_bytes = len(BLOCKS) * rig.source.layout.region_bytes
    exposed_s = []
    for export_id in range(1, 6):
        handle = rig.exporter.publish(export_id, BLOCKS, NUM_TOKENS, 0)
        _, results = rig.begin(handle, BLOCKS)
        for layer in range(6):
            threading.Event().wait(1.5 * layer_bytes / 4e6)  # prefill computes a layer
            rig.exporter.advance(export_id, NUM_TOKENS, layer + 1)
        rig.exporter.complete(export_id, (1,))
        result = results.get(timeout=20)
        assert result.ok
        exposed_s.append(result.exposed_s)
    assert min(exposed_s) < 0.6 * 6 * layer_bytes / 4e6, exposed_s


def test_waiting_for_prefill_is_not_a_transfer_timeout(make_rig, until):
    rig = make_rig(config=TransferConfig(slack_s=0.8, heartbeat_s=0.02))
    handle = rig.exporter.publish(1, BLOCKS, NUM_TOKENS, 32)
    _, results = rig.begin(handle, BLOCKS)
    until(lambda: rig.target.view[5, 1].any())
    begin_s = rig.clock.now()
    until(lambda: rig.clock.now() > begin_s + 1.2)
    rig.exporter.complete(1, (1,))
    assert results.get(timeout=20).ok


def test_a_lease_ends_in_virtual_time_and_tells_the_reader(make_rig, until):
    clock = VirtualClock()
    rig = make_rig(clock=clock, config=TransferConfig(heartbeat_s=60.0))
    handle = rig.exporter.publish(1, BLOCKS, NUM_TOKENS, 32)
    _, results = rig.begin(handle, BLOCKS)
    until(lambda: rig.target.view[5, 1].any())
    clock.advance(29.9)
    unread = rig.exporter.publish(2, BLOCKS, NUM_TOKENS, 32)
    assert rig.exporter.num_active == 2
    clock.advance(0.2)
    until(lambda: rig.released == [1])
    assert results.get(timeout=20).reason is FailReason.LEASE_EXPIRED
    clock.advance(30.0)
    until(lambda: sorted(rig.released) == [1, 2])
    assert rig.pull(unread, BLOCKS).reason is FailReason.UNKNOWN_HANDLE


def test_heartbeats_keep_a_lease_alive(make_rig, until):
    clock = VirtualClock()
    rig = make_rig(clock=clock, config=TransferConfig(lease_s=30.0, heartbeat_s=0.02))
    handle = rig.exporter.publish(1, BLOCKS, NUM_TOKENS, 32)
    _, results = rig.begin(handle, BLOCKS)
    until(lambda: rig.target.view[5, 1].any())
    for _ in range(5):
        clock.advance(20.0)
        until(lambda: rig.exporter._exports.expire() == 30.0)  # the lease is a whole one again
    assert rig.released == []
    rig.exporter.complete(1, (1,))
    assert results.get(timeout=20).ok


def test_a_handle_that_waits_for_room_is_held_beyond_its_lease(make_rig, until):
    clock = VirtualClock()
    rig = make_rig(clock=clock, config=TransferConfig(lease_s=30.0, heartbeat_s=0.02))
    held = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    rig.importer.hold(held)
    table = rig.exporter._exports
    for _ in range(5):
        clock.advance(20.0)
        until(lambda: table.expire() == 30.0)  # the lease is a whole one again
    assert rig.released == []
    assert rig.pull(held, BLOCKS).ok
    until(lambda: rig.released == [1])


def test_a_handle_that_was_let_go_ends_with_its_lease(make_rig, until):
    clock = VirtualClock()
    rig = make_rig(clock=clock, config=TransferConfig(lease_s=30.0, heartbeat_s=0.02))
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    rig.importer.hold(handle)
    clock.advance(20.0)
    until(lambda: rig.exporter._exports.expire() == 30.0)
    rig.importer.let_go(handle)
    assert rig.pull(rig.publish_whole(2, [50], 16), [60]).ok  # behind it on the same link
    clock.advance(31.0)
    until(lambda: sorted(rig.released) == [1, 2])


def test_a_hold_on_a_source_that_is_gone_is_forgotten(make_rig):
    rig = make_rig()
    handle = rig.publish_whole(1, BLOCKS, NUM_TOKENS)
    rig.exporter.close()
    rig.importer.hold(handle)
    rig.importer.let_go(handle)
    assert rig.pull(handle, BLOCKS).reason is FailReason.UNREACHABLE


def test_a_pull_that_progresses_is_not_late(make_rig):
    """It takes three times what is allowed without progress."""
    config = TransferConfig(slack_s=0.6, expected_bytes_s=1e9, piece_bytes=1 << 12)
    rate_bytes_s = len(BLOCKS) * 6 * 2048 / 1.8
    rig = make_rig(transport="tcp", faults=Faults(rate_bytes_s=rate_bytes_s), config=config)
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert result.ok, result
    assert result.transfer_s > 1.2
    rig.assert_copied(BLOCKS, BLOCKS)


def test_a_pull_that_only_trickles_ends_too(make_rig, until):
    config = TransferConfig(slack_s=0.02, expected_bytes_s=1e9, piece_bytes=1)
    rate_bytes_s = len(BLOCKS) * 6 * 2048 / 60.0
    rig = make_rig(transport="shm", faults=Faults(rate_bytes_s=rate_bytes_s), config=config)
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (result.ok, result.reason) == (False, FailReason.TIMEOUT)
    until(lambda: rig.released == [1])
