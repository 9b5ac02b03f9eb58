"""A probe's export has a lease like any other, and counts as nobody's blocks."""

from kv_transfer.exports import ExportTable
from runtime.clock import VirtualClock


def test_a_probe_that_nobody_pulls_ends_with_its_lease() -> None:
    clock = VirtualClock()
    released: list[int] = []
    granted: list[str] = []
    table = ExportTable(2, 30.0, clock, lambda call: call(), released.append)
    table.call_on_grant(lambda: granted.append("look at the leases"))
    table.publish_probe([5], 16)
    assert granted, "nobody would notice that the lease is over"
    assert table.num_requests == 0
    assert table.wait_empty(0.0)
    clock.advance(31.0)
    assert table.expire() is None
    table.check_integrity()
    assert released == []


def test_requests_are_counted_beside_probes() -> None:
    table = ExportTable(2, 30.0, VirtualClock(), lambda call: call(), lambda export_id: None)
    table.publish_probe([5], 16)
    table.publish(7, [1, 2], 32, 0)
    assert table.num_requests == 1
    assert not table.wait_empty(0.0)
