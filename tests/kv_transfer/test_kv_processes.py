"""Two real processes, and what the one does when the other is killed or frozen."""

import signal

import pytest

NUM_BLOCKS = 256
SLOW_LINK = 2e6  # bytes per second: a pool of 4 MiB takes two seconds


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_blocks_cross_between_processes(start, transport):
    source, reader = start("source", transport=transport), start("reader", transport=transport)
    handle = source.publish(64)
    reader.tell(do="pull", handle=handle)
    source.tell(do="complete", id=1)
    result = reader.hear("result")
    assert (result["transport"], result["error"], result["intact"]) == (transport, "", True)
    assert source.hear("released") == 1


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_a_killed_source_fails_its_readers_at_once(start, transport):
    source = start("source", transport=transport)
    reader = start("reader", transport=transport)
    reader.tell(do="pull", handle=source.publish(64))
    reader.wait_for_bytes()
    source.signal(signal.SIGKILL)
    result = reader.hear("result")
    # Reading a process that is gone may fail before its connection is seen to have ended.
    reasons = {"peer_lost", "transport"} if transport in {"nixl", "ucx"} else {"peer_lost"}
    assert not result["ok"] and result["reason"] in reasons
    successor = start("source", transport=transport)
    successor_handle = successor.publish(64)
    successor.tell(do="complete", id=1)
    reader.tell(do="pull", handle=successor_handle)
    assert reader.hear("result")["intact"]


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx", "cuda_ipc"])
def test_a_frozen_source_is_left(start, transport):
    source, reader = start("source", transport=transport), start("reader", transport=transport)
    reader.tell(do="pull", handle=source.publish(64))
    reader.wait_for_bytes()
    source.signal(signal.SIGSTOP)
    with reader.in_a_hurry():
        result = reader.hear("result")
    assert (result["ok"], result["reason"]) == (False, "peer_hung")
    source.signal(signal.SIGCONT)
    assert source.hear("released") == 1


def test_a_source_frozen_in_the_middle_of_sending_is_left_too(start):
    source = start("source")
    reader = start("reader", transport="tcp", rate_bytes_s=SLOW_LINK, piece_bytes=1 << 16)
    handle = source.publish(16 * NUM_BLOCKS)
    source.tell(do="complete", id=1)
    reader.tell(do="pull", handle=handle)
    reader.wait_for_bytes()
    source.signal(signal.SIGSTOP)
    with reader.in_a_hurry():
        result = reader.hear("result")
    assert result["reason"] in ("peer_hung", None)  # None: the kernel held all the bytes
    assert result["intact"] == result["ok"]


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_a_killed_reader_gives_its_blocks_back_before_the_lease_ends(start, transport):
    source = start("source", transport=transport, lease_s=600.0)
    reader = start("reader", transport=transport)
    reader.tell(do="pull", handle=source.publish(64))
    reader.wait_for_bytes()
    reader.signal(signal.SIGKILL)
    assert source.hear("released") == 1


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx", "cuda_ipc"])
def test_a_frozen_reader_loses_its_lease_and_never_uses_what_it_reads_later(start, transport):
    source = start("source", transport=transport, stall_s=5.0)
    reader = start("reader", transport=transport, rate_bytes_s=SLOW_LINK, piece_bytes=1 << 16)
    handle = source.publish(16 * NUM_BLOCKS)
    source.tell(do="complete", id=1)
    reader.tell(do="pull", handle=handle)
    reader.wait_for_bytes()
    reader.signal(signal.SIGSTOP)
    with source.in_a_hurry():
        assert source.hear("released") == 1
    source.tell(do="reuse")
    assert source.hear("reused")
    reader.signal(signal.SIGCONT)
    result = reader.hear("result")
    assert not result["ok"]
    assert result["reason"] in ("lease_expired", "peer_lost")


def test_a_handle_that_nobody_reads_expires(start):
    source = start("source")
    source.publish(64)
    with source.in_a_hurry():
        assert source.hear("released") == 1
