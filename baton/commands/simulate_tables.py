"""The tables that `baton simulate` prints for grids and capacities."""

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.console import Console
from rich.table import Table

from runtime.metrics import Metrics
from simulate.capacity import Need
from simulate.pools import Controller
from simulate.run import Outcome
from simulate.sweep import CellResult, best_splits


class PlannedRun(Protocol):
    """A simulation whose pools a planner moves."""

    @property
    def controller(self) -> Controller: ...

    @property
    def metrics(self) -> Metrics: ...

    def print_decisions(self, console: Console, outcome: Outcome) -> None: ...


def sweep_table(results: Sequence[CellResult]) -> Table:
    """One row a cell; the best split of each policy and rate is marked."""
    table = Table(box=box.SIMPLE_HEAD)
    headings = (
        "policy", "rate", "split", "offered/s", "goodput/s", "met", "TTFT p50", "p90",
        "TPOT p50", "p90", "cached", "GPUs",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "policy" else "right", no_wrap=True)
    best = best_splits(results)
    for result in results:
        mark = "*" if result in best else " "
        table.add_row(
            result.policy,
            f"{result.rate:g}" if result.rate else "-",
            result.split + mark,
            f"{result.offered:.2f}",
            f"{result.goodput:.2f}",
            f"{result.attainment:.1%}",
            *(f"{value:.0f}" for value in (result.ttft_p50, result.ttft_p90)),
            *(f"{value:.1f}" for value in (result.tpot_p50, result.tpot_p90)),
            f"{result.cached_share:.1%}",
            str(result.num_gpus),
        )
    table.caption = "* the best split of its policy and rate"
    return table


def capacity_table(needs: Sequence[Need], max_workers: int) -> Table:
    """One row a kind of hardware, the cheapest marked."""
    table = Table(box=box.SIMPLE_HEAD)
    headings = ("hardware", "split", "GPUs", "USD/h", "goodput/s", "met", "TTFT p90", "TPOT p90")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "hardware" else "right")
    found = [need.cell for need in needs if need.cell is not None]
    lowest = min((cell.usd_per_hour for cell in found), default=0.0)
    for need in needs:
        cell = need.cell
        if cell is None:
            table.add_row(need.profile.name, f"more than {max_workers}", *["-"] * 6)
            continue
        mark = "*" if cell.usd_per_hour == lowest else " "
        table.add_row(
            need.profile.name,
            cell.split,
            str(cell.num_gpus),
            f"{cell.usd_per_hour:.2f}{mark}",
            f"{cell.goodput:.2f}",
            f"{cell.attainment:.1%}",
            f"{cell.ttft_p90:.0f}",
            f"{cell.tpot_p90:.1f}",
        )
    table.caption = "* the cheapest at the prices of profiles/data/devices.toml"
    return table
