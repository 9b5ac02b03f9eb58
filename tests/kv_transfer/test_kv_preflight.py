"""Preflight: pairs are measured before requests need them, and what got worse is told."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.matrix import AlarmKind, Measurement, PairMatrix
from kv_transfer.preflight import Preflight
from kv_transfer.transports.faulty import Faults, with_faults
from kv_transfer.transports.registry import TRANSPORTS
from runtime.clock import SystemClock
from wire.kv import FabricAddress, KVLayout

SECRET = b"a cluster's secret"
LAYOUT = KVLayout(4, 64, 2, 16, 16, "float32")
GOOD = Measurement(0.001, 1e9, "tcp")


@pytest.fixture
def serve(make_side: Callable, nothing_is_left: None):
    """A source; gives where it listens. Nothing that is probed is told to the engine."""
    stops = []

    def begin(probe_blocks=(60, 61, 62), layout: KVLayout = LAYOUT) -> FabricAddress:
        side = make_side(layout, seed=1)
        released: list[int] = []
        exporter = Exporter(
            layout,
            side.memory,
            "p0",
            3,
            SystemClock(),
            SECRET,
            TransferConfig(),
            on_released=released.append,
            probe_blocks=probe_blocks,
        )

        def stop() -> None:
            assert exporter.drain(30.0)
            exporter.check_integrity()
            exporter.close()
            assert released == []
            side.close()

        stops.append(stop)
        return exporter.start("127.0.0.1")

    yield begin
    for stop in stops:
        stop()


def preflight(transport: str = "auto", secret: bytes = SECRET, **settings) -> Preflight:
    config = TransferConfig(transport=transport)
    return Preflight(LAYOUT, SystemClock(), secret, config, large_bytes=1 << 20, **settings)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_pair_is_measured_by_the_transport_that_requests_get(serve, transport):
    measured = preflight(transport).probe(serve(), "p0", 3)
    assert (measured.error, measured.transport) == ("", transport)
    assert 0.0 < measured.latency_s < 30.0
    assert measured.bandwidth_bytes_s > 1e6


def test_a_slow_link_is_measured_as_slow(serve):
    transports = with_faults(TRANSPORTS, Faults(rate_bytes_s=20e6), SystemClock())
    prober, address = preflight("tcp", transports=transports), serve()
    rates = [prober.probe(address, "p0", 3).bandwidth_bytes_s for _ in range(3)]
    assert 5e6 < max(rates) < 30e6, rates  # a thread may have to wait for a core


def test_a_source_with_other_blocks_is_measured_too(serve):
    address = serve(layout=replace(LAYOUT, block_size=32))
    assert preflight().probe(address, "p0", 3).error == ""


@pytest.mark.parametrize(
    ("probe_blocks", "epoch", "secret", "words"),
    [
        ((), 3, SECRET, "cannot be probed"),
        ((1,), 4, SECRET, "epoch 3"),
        ((1,), 3, b"another", "secret"),
    ],
)
def test_a_probe_that_is_refused_says_why(serve, probe_blocks, epoch, secret, words):
    measured = preflight(secret=secret).probe(serve(probe_blocks), "p0", epoch)
    assert words in measured.error
    assert measured.transport == ""


def test_a_source_that_is_not_there_is_a_measurement():
    address = FabricAddress("127.0.0.1", 1, transports=("tcp",))
    assert "cannot reach" in preflight().probe(address, "p0", 3).error


def kinds(entry) -> list[AlarmKind]:
    return [alarm.kind for alarm in entry.alarms]


@pytest.mark.parametrize(
    ("measured", "want"),
    [
        (GOOD, []),
        (replace(GOOD, bandwidth_bytes_s=0.6e9, latency_s=0.0019), []),
        (replace(GOOD, bandwidth_bytes_s=0.4e9), [AlarmKind.SLOWER]),
        (replace(GOOD, latency_s=0.003), [AlarmKind.LATER]),
        (replace(GOOD, transport="nixl"), [AlarmKind.OTHER_TRANSPORT]),
        (Measurement(error="no route"), [AlarmKind.UNREACHABLE]),
    ],
)
def test_a_pair_that_is_worse_than_it_used_to_be_raises_an_alarm(measured, want):
    matrix = PairMatrix()
    for at in range(3):
        assert kinds(matrix.record("p0", "d0", GOOD, at)) == []
    assert kinds(matrix.record("p0", "d0", measured, 9.0)) == want
    assert [alarm.kind for alarm in matrix.alarms()] == want
    assert matrix.entry("p0", "d0").at_s == 9.0


def test_a_link_that_stays_slow_stays_an_alarm_until_someone_accepts_it():
    matrix = PairMatrix()
    matrix.record("p0", "d0", GOOD, 0.0)
    slow = replace(GOOD, bandwidth_bytes_s=1e8)
    for at in range(20):
        assert kinds(matrix.record("p0", "d0", slow, at)) == [AlarmKind.SLOWER]
    assert "0.1 GB/s, used to be 1" in matrix.alarms()[0].message
    matrix.accept("p0", "d0")
    assert matrix.alarms() == []
    assert kinds(matrix.record("p0", "d0", slow, 30.0)) == []


def test_a_pair_is_only_compared_with_itself():
    matrix = PairMatrix()
    matrix.record("p0", "d0", GOOD, 0.0)
    assert kinds(matrix.record("p1", "d0", replace(GOOD, bandwidth_bytes_s=1e6), 0.0)) == []
    assert matrix.entry("d0", "p0") is None
    matrix.forget("p1")
    assert [entry.source for entry in matrix.entries()] == ["p0"]


@given(st.lists(st.floats(1e6, 1e10), min_size=1, max_size=30))
def test_an_alarm_is_raised_for_what_is_below_half_of_the_usual(bandwidths):
    matrix, usual = PairMatrix(), []
    for at, bandwidth in enumerate(bandwidths):
        entry = matrix.record("p0", "d0", replace(GOOD, bandwidth_bytes_s=bandwidth), at)
        middle = sorted(usual[-8:])
        count = len(middle)
        if count:
            want = bandwidth * 2 < (middle[count // 2] + middle[(count - 1) // 2]) / 2
            assert bool(entry.alarms) == want
        if not entry.alarms:
            usual.append(bandwidth)
