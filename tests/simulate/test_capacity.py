"""The least number of workers for a load, and what it costs."""

from dataclasses import replace

import pytest
from toy_cluster import make_profile, make_spec

from loadtest.order import Order
from simulate.capacity import CapacitySearch, splits_of
from simulate.strategies import parse_strategy
from simulate.sweep import Base, Cell, run_cell

PROFILE = make_profile(usd_per_hour=2.0)
BASE = Base(
    make_spec("1:1", profile=PROFILE),
    parse_strategy("baton"),
    Order(rate="30", duration="6s", input_tokens="600", output_tokens="20"),
    ("ttft:300 tpot:30",),
)


def search(max_workers=32, attain=0.9):
    return CapacitySearch(BASE, attain, max_workers, 1, lambda result: None)


def test_one_worker_fewer_misses_in_every_split():
    (need,) = search().needs([PROFILE])
    count = need.cell.num_gpus
    assert need.cell.attainment >= 0.9
    assert need.cell.usd_per_hour == pytest.approx(2.0 * count)
    assert count > 1
    for split in splits_of(count - 1):
        assert run_cell(BASE, Cell(split, BASE.strategy, 0.0)).attainment < 0.9


def test_faster_hardware_needs_fewer_workers():
    fast = replace(PROFILE, prefill_token_s=PROFILE.prefill_token_s / 4, step_s=0.002)
    slow_need, fast_need = search().needs([PROFILE, fast])
    assert fast_need.cell.num_gpus < slow_need.cell.num_gpus


def test_a_load_that_the_most_workers_miss_has_no_answer():
    hopeless = replace(PROFILE, step_s=1.0)
    (need,) = search(max_workers=4).needs([hopeless])
    assert need.cell is None


def test_splits_are_aggregated_serving_and_shares_in_between():
    assert splits_of(1) == [(0, 1)]
    assert splits_of(2) == [(0, 2), (1, 1)]
    assert splits_of(8) == [(0, 8), (2, 6), (3, 5), (4, 4), (5, 3), (6, 2)]
