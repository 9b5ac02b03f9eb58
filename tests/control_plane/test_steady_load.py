"""Simulated hours of steady random traffic under the planner: nothing moves."""

import pytest

from baton.bench.planner import steady_row


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("rate", "seed"), [(1.0, 5), (2.2, 7), (2.2, 2), (3.3, 3), (4.5, 4)])
def test_an_hour_of_steady_traffic_moves_nothing(rate: float, seed: int) -> None:
    assert steady_row(rate, seed).value == 0
