"""kill -9 of either side at named points: nothing is stranded, wrong, or hurt on the other side."""

import contextlib
import signal

import pytest

READER_POINTS = ["after Hello", "after Attach", "moved", "before Release", "after Release"]
SOURCE_POINTS = ["after Welcome", "after Attached", "after Ready", "after Digests", "half sent"]
SOURCE_POINTS_SHM = [*SOURCE_POINTS[:-1], "before Released"]
NUM_BLOCKS = 256
LOST = {"peer_lost", "unreachable", "transport"}

once_and_slowly_often = pytest.mark.parametrize(
    "num_rounds", [1, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
slow_ones = [pytest.param(name, marks=pytest.mark.slow) for name in ("nixl", "ucx", "cuda_ipc")]
transports = pytest.mark.parametrize("transport", ["shm", "tcp", *slow_ones])


@once_and_slowly_often
@transports
def test_a_reader_killed_at_any_point_strands_no_block(start, transport, num_rounds):
    source, healthy = start("source", transport=transport), start("reader", transport=transport)
    for number in range(num_rounds * len(READER_POINTS)):
        point = READER_POINTS[number % len(READER_POINTS)]
        victim = start("reader", transport=transport, die_at=point, piece_bytes=1 << 18)
        victim.tell(do="pull", handle=source.publish(64, export_id=2 * number))
        source.tell(do="complete", id=2 * number)
        assert victim.process.wait(30) == -signal.SIGKILL, point
        with source.in_a_hurry():  # one that dies before it attaches leaves the lease to end
            assert source.hear("released") == 2 * number, point
        read_all(source, healthy, 2 * number + 1)
        victim.stop()


@once_and_slowly_often
@transports
def test_a_source_killed_at_any_point_never_gives_wrong_bytes(start, transport, num_rounds):
    points = SOURCE_POINTS if transport == "tcp" else SOURCE_POINTS_SHM
    healthy = start("source", transport=transport)
    reader = start("reader", transport=transport, verify_share=1.0)
    for number in range(num_rounds * len(points)):
        point = points[number % len(points)]
        victim = start("source", transport=transport, die_at=point)
        reader.tell(do="pull", handle=victim.publish(64))
        with contextlib.suppress(BrokenPipeError):  # it may be dead already
            victim.tell(do="complete", id=1)
        result = reader.hear("result")
        assert victim.process.wait(30) == -signal.SIGKILL, point
        assert not result["ok"] and result["reason"] in LOST, (point, result)
        read_all(healthy, reader, number)
        victim.stop()


def test_a_woken_sources_late_bytes_are_not_written(start):
    """The reader has left a source that was stopped in the middle of a frame."""
    source = start("source")
    reader = start("reader", transport="tcp", rate_bytes_s=2e6, piece_bytes=1 << 16)
    handle = source.publish(16 * NUM_BLOCKS)
    reader.tell(do="pull", handle=handle)
    reader.wait_for_bytes()
    source.signal(signal.SIGSTOP)
    with reader.in_a_hurry():
        result = reader.hear("result")
    assert (result["ok"], result["reason"]) == (False, "peer_hung")
    reader.tell(do="fill", byte=0xCC)  # the blocks belong to others
    assert reader.hear("filled")
    source.signal(signal.SIGCONT)
    assert source.hear("released") == 1
    reader.tell(do="holds", byte=0xCC)
    assert reader.hear("holds")
    read_all(source, reader, 2)


def read_all(source, reader, export_id: int) -> None:
    """A pull that has nothing to fear brings every byte, whatever happened before."""
    reader.tell(do="fill", byte=0)
    assert reader.hear("filled")
    reader.tell(do="pull", handle=source.publish(64, export_id))
    source.tell(do="complete", id=export_id)
    result = reader.hear("result")
    assert (result["ok"], result["intact"]) == (True, True), result
    assert source.hear("released") == export_id
