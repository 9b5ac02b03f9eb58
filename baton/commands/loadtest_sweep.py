"""`baton loadtest sweep`: the largest rate that keeps its goodput, for one or several splits."""

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table

from baton.commands.loadtest_flags import LoadFlags
from baton.commands.loadtest_run import load_once
from baton.detached_cluster import ClusterStartError, detached_cluster
from loadtest.errors import LoadtestError
from loadtest.order import plan_workload
from loadtest.quantities import parse_rate
from loadtest.report_plots import Named
from loadtest.result import RunResult
from loadtest.sweep import Sweep, largest_rate

_STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class SplitSweep:
    """What a sweep of one split found. name: P:D, or empty for a server that was there.

    sweep is None where it was ended early; problem says by what.
    """

    name: str
    sweep: Sweep | None
    runs: tuple[Named, ...]
    problem: str = ""

    @property
    def best(self) -> RunResult | None:
        """The run at the largest rate that held."""
        if self.sweep is None:
            return None
        by_rate = dict(zip((rate for rate, _ in self.sweep.tried), self.runs, strict=True))
        return by_rate[self.sweep.best_rate][1] if self.sweep.best_rate else None


class _EndedEarly(Exception):
    """A run that was stopped or is INVALID, so that the search has nothing to go on."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Splits for which clusters are started on this host. up_flags: further flags of `up`."""

    splits: tuple[tuple[int, int], ...] = ()
    up_flags: tuple[str, ...] = ()


def parse_grid(splits: str, up_flags: str) -> Grid:
    """`1:1,2:1`. Raises LoadtestError."""
    found = []
    for part in filter(None, splits.split(",")):
        prefill, _, decode = part.strip().partition(":")
        if not (prefill.isdigit() and decode.isdigit() and int(prefill) + int(decode)):
            raise LoadtestError(f"{part!r} is not a split such as 2:1 (prefill:decode)")
        found.append((int(prefill), int(decode)))
    return Grid(tuple(found), tuple(shlex.split(up_flags)))


def sweep_all(
    url: str, flags: LoadFlags, max_rate: float, grid: Grid, console: Console
) -> list[SplitSweep]:
    """Raises LoadtestError."""
    if url and grid.splits:
        raise LoadtestError("a grid starts its own clusters: leave the URL out")
    if flags.kill or flags.freeze:
        raise LoadtestError("faults are for single runs, where their effect can be told")
    if not grid.splits:
        return [_sweep(url, "", flags, max_rate, console)]
    found = []
    for prefill, decode in grid.splits:
        name = f"{prefill}:{decode}"
        try:
            with detached_cluster(prefill, decode, grid.up_flags) as state:
                console.print(f"{name} at {state.http_url}", highlight=False)
                found.append(_sweep(state.http_url, name, flags, max_rate, console))
        except ClusterStartError as error:
            raise LoadtestError(str(error)) from error
        if found[-1].problem == _STOPPED:
            break
    return found


def sorted_runs(found: Sequence[SplitSweep]) -> list[Named]:
    """All runs of all splits, by the rate that was offered."""
    runs = (named for one in found for named in one.runs)
    return sorted(runs, key=lambda run: run[1].offered_rate)


def sweep_table(found: Sequence[SplitSweep]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("split", "largest offered rate that held", "goodput there", "runs"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for one in found:
        best, bound = one.best, ""
        if one.sweep is not None and not one.sweep.is_bounded:
            bound = " or more"
        rate = f"{best.offered_rate:.3g} req/s{bound}" if best else one.problem or "none"
        goodput = f"{best.overall.goodput:.3g} req/s" if best else "-"
        table.add_row(one.name or "-", rate, goodput, str(len(one.runs)))
    return table


def _sweep(url: str, name: str, flags: LoadFlags, max_rate: float, console: Console) -> SplitSweep:
    first_rate, _ = parse_rate(flags.rate)
    runs: list[Named] = []

    async def holds(rate: float) -> bool:
        """A new seed each time: prompts that the run before left in the cache would flatter."""
        flags_at = _at_rate(flags, rate, seed=flags.seed + len(runs))
        result = (await load_once(url, flags_at, None)).result
        runs.append((f"{name} {rate:.3g}/s".strip(), result))
        console.print(_line(rate, result), highlight=False, soft_wrap=True)
        if result.is_partial:
            raise _EndedEarly(_STOPPED)
        if result.invalid:
            raise _EndedEarly(f"at {rate:.3g}/s the run is INVALID: {'; '.join(result.invalid)}")
        return result.overall.attainment >= flags.attain

    try:
        sweep = asyncio.run(largest_rate(holds, first_rate, max(max_rate, first_rate)))
    except _EndedEarly as end:
        return SplitSweep(name, None, tuple(runs), str(end))
    return SplitSweep(name, sweep, tuple(runs))


def _at_rate(flags: LoadFlags, rate: float, seed: int) -> LoadFlags:
    """A trace has a rate of its own: it is stretched in time."""
    if flags.trace is None:
        return replace(flags, rate=str(rate), seed=seed)
    natural = plan_workload(replace(flags, time_scale=1.0, duration="", requests=0).order())
    own_rate = natural.num_requests / max(natural.duration_s, 1e-9)
    return replace(flags, time_scale=rate / own_rate, seed=seed)


def _line(rate: float, result: RunResult) -> str:
    overall = result.overall
    return (
        f"{rate:8.3g} req/s  met SLO {overall.attainment:6.1%}  goodput {overall.goodput:.3g}/s  "
        f"TTFT p50 {overall.ttft.p50:.0f} p99 {overall.ttft.p99:.0f} ms  "
        f"TPOT p50 {overall.tpot.p50:.1f} p99 {overall.tpot.p99:.1f} ms  "
        f"failed {overall.num_requests - overall.num_ok}"
    )
