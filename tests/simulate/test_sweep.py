"""Grids of simulations: how they are written, run and read."""

from pathlib import Path

import pytest
from toy_cluster import make_spec

from loadtest.order import Order
from simulate.errors import SimulationError
from simulate.strategies import STRATEGIES, parse_strategy
from simulate.sweep import Base, best_splits, parse_grid, parse_splits, run_cells, workload_of

BASE = Base(
    make_spec("1:1"),
    parse_strategy("baton"),
    Order(rate="5", duration="4s", input_tokens="400-800", output_tokens="20"),
    ("ttft:150 tpot:20",),
)


def test_a_grid_is_the_product_of_its_axes():
    grid = parse_grid("split=1:3..3:1,0:4 policy=baton,dynamo:overlap_weight=2,local=64 rate=1,2.5")
    assert grid.splits == ((1, 3), (2, 2), (3, 1), (0, 4))
    assert [s.policy for s in grid.strategies] == ["uncached_tokens", "dynamo:overlap_weight=2"]
    assert grid.strategies[1].local_tokens == 64
    assert len(grid.cells(BASE)) == 4 * 2 * 2


def test_axes_that_are_left_out_keep_the_base():
    (cell,) = parse_grid("").cells(BASE)
    assert (cell.split, cell.strategy.name, cell.rate) == ((1, 1), "baton", 0.0)


def test_a_range_of_splits_also_runs_downwards():
    assert parse_splits("3:1..1:3") == [(3, 1), (2, 2), (1, 3)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("split=2:6..6:3", "different numbers of workers"),
        ("split=two", "not a split such as 3:5"),
        ("split=0:0", "not a split"),
        ("rate=fast", "'fast' is not a rate"),
        ("rate=-1", "not a rate"),
        ("policy=best", "no policy 'best'; there are baton"),
        ("policy=dynamo:local=x", "local= takes a number"),
        ("speed=3", "one each of split=, policy=, rate="),
        ("rate=1 rate=2", "one each"),
    ],
)
def test_a_grid_that_is_wrong_says_why(text, reason):
    with pytest.raises(SimulationError, match=reason):
        parse_grid(text)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_can_be_parsed_and_names_its_source(name):
    strategy = parse_strategy(name)
    assert strategy.name == name and strategy.source


def test_processes_change_nothing_but_the_time_that_it_takes():
    cells = parse_grid("split=1:1,0:2 policy=baton,random").cells(BASE)
    seen = []
    alone = run_cells(BASE, cells, 1, seen.append)
    together = run_cells(BASE, cells, 2, lambda result: None)
    assert alone == together == seen
    assert [(r.policy, r.split) for r in alone] == [
        ("baton", "1:1"), ("baton", "0:2"), ("random", "1:1"), ("random", "0:2"),
    ]  # fmt: skip
    best = best_splits(alone)
    assert {r.policy for r in best} == {"baton", "random"}
    assert all(r.goodput >= max(o.goodput for o in alone if o.policy == r.policy) for r in best)


def test_a_rate_scales_a_trace_and_sets_a_made_load(tmp_path: Path):
    trace = tmp_path / "trace.jsonl"
    line = '{"timestamp": %d, "input_length": 600, "output_length": 3, "hash_ids": [0, %d]}\n'
    trace.write_text("".join(line % (1000 * i, i + 1) for i in range(5)))
    base = Base(BASE.spec, BASE.strategy, Order(trace=trace))
    slow, fast = workload_of(base, 0.0), workload_of(base, 4.0)
    assert fast.duration_s == pytest.approx(slow.duration_s / 4)
    assert workload_of(BASE, 20.0).num_requests > 2 * workload_of(BASE, 0.0).num_requests


def test_a_datasets_messages_are_refused(tmp_path: Path):
    dataset = tmp_path / "chat.jsonl"
    dataset.write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    base = Base(BASE.spec, BASE.strategy, Order(dataset=dataset, duration="5s"))
    with pytest.raises(SimulationError, match="no token counts"):
        workload_of(base, 0.0)
