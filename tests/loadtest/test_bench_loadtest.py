"""`baton bench loadtest` as a smoke: the rows are there and nothing fails."""

import shutil

import pytest

from baton.bench import loadtest


@pytest.mark.skipif(shutil.which("cc") is None, reason="the server needs a C compiler")
def test_the_generators_bench_gives_rates_cores_and_lag() -> None:
    case = loadtest.Case("small", 50, 8, 10, 64)
    rows = {row.name: row for row in loadtest.run(1, (case,), 1.0)}
    assert rows["loadtest.small.failed"].value == 0
    assert rows["loadtest.small.requests"].value > 20
    assert rows["loadtest.small.events"].value > 160
    assert rows["loadtest.small.lag.p99"].value > 0
