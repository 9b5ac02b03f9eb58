"""Many simulations: every split, policy and rate of a grid, on as many cores as allowed."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from multiprocessing import get_context

from loadtest.order import Order, plan_workload
from loadtest.plan import Workload
from loadtest.slo import parse_slos
from simulate.errors import SimulationError
from simulate.report import result_of
from simulate.run import simulate
from simulate.spec import ClusterSpec
from simulate.strategies import Strategy, StrategyError, parse_strategy

_SPLIT = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation of a grid. rate: requests/s, or times the trace's own rate."""

    split: tuple[int, int]
    strategy: Strategy
    rate: float


@dataclass(frozen=True, slots=True)
class Grid:
    """The axes; empty ones keep what the base says."""

    splits: tuple[tuple[int, int], ...] = ()
    strategies: tuple[Strategy, ...] = ()
    rates: tuple[float, ...] = ()

    def cells(self, base: "Base") -> list[Cell]:
        splits = self.splits or ((base.spec.num_prefill, base.spec.num_decode),)
        strategies = self.strategies or (base.strategy,)
        combined = product(strategies, self.rates or (base.rate,), splits)
        return [Cell(split, strategy, rate) for strategy, rate, split in combined]


@dataclass(frozen=True, slots=True)
class Base:
    """What all cells share. rate 0 leaves the order as it is."""

    spec: ClusterSpec
    strategy: Strategy
    order: Order
    slos: tuple[str, ...] = ()
    rate: float = 0.0
    warmup_s: float = 0.0
    auto_units: bool = True


@dataclass(frozen=True, slots=True)
class CellResult:
    """The figures of a cell that its table shows; times in ms, goodput and rates per second."""

    split: str
    policy: str
    rate: float
    offered: float
    goodput: float
    attainment: float
    ttft_p50: float
    ttft_p90: float
    tpot_p50: float
    tpot_p90: float
    cached_share: float
    num_gpus: int
    usd_per_hour: float
    num_preemptions: int
    busy: dict[str, float] = field(default_factory=dict)


def parse_grid(text: str) -> Grid:
    """`split=2:6..6:2 policy=baton,dynamo:overlap_weight=2 rate=1,2`. Raises SimulationError.

    A range of splits moves one worker at a time. A part with `=` and no `:` belongs to the policy
    before it.
    """
    axes: dict[str, str] = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        if not equals or name not in ("split", "policy", "rate") or name in axes:
            raise SimulationError(f"{part!r} in the sweep: one each of split=, policy=, rate=")
        axes[name] = values
    splits = axes["split"].split(",") if "split" in axes else []
    rates = axes["rate"].split(",") if "rate" in axes else []
    return Grid(
        splits=tuple(dict.fromkeys(split for text in splits for split in parse_splits(text))),
        strategies=parse_strategies(axes.get("policy", "")),
        rates=tuple(_rate(rate) for rate in rates),
    )


def parse_strategies(text: str) -> tuple[Strategy, ...]:
    """Names with their settings, separated by commas. Raises SimulationError."""
    names: list[str] = []
    for part in text.split(","):
        if names and "=" in part and ":" not in part:
            names[-1] += f",{part}"
        elif part:
            names.append(part)
    try:
        return tuple(parse_strategy(name) for name in names)
    except StrategyError as error:
        raise SimulationError(str(error)) from error


def parse_splits(text: str) -> list[tuple[int, int]]:
    """`3:5`, or `2:6..6:2`: prefill and decode workers. Raises SimulationError."""
    first, dots, last = text.partition("..")
    start = _split(first)
    end = _split(last) if dots else start
    if sum(start) != sum(end):
        raise SimulationError(f"the splits {text!r} have different numbers of workers")
    step = 1 if end[0] >= start[0] else -1
    total = sum(start)
    return [(number, total - number) for number in range(start[0], end[0] + step, step)]


def run_cell(base: Base, cell: Cell) -> CellResult:
    """Raises LoadtestError or SimulationError for what cannot be simulated."""
    workload = workload_of(base, cell.rate)
    spec = spec_of(base, cell)
    outcome = simulate(spec, workload)
    slos = parse_slos(base.slos)
    overall = result_of(spec, workload, outcome, slos, warmup_s=base.warmup_s).overall
    return CellResult(
        split=spec.split,
        policy=cell.strategy.name,
        rate=cell.rate,
        offered=workload.num_requests / max(workload.duration_s, 1e-9),
        goodput=overall.goodput,
        attainment=overall.attainment,
        ttft_p50=overall.ttft.p50,
        ttft_p90=overall.ttft.p90,
        tpot_p50=overall.tpot.p50,
        tpot_p90=overall.tpot.p90,
        cached_share=overall.num_cached_tokens / max(1, overall.num_input_tokens),
        num_gpus=spec.num_gpus,
        usd_per_hour=spec.usd_per_hour,
        num_preemptions=outcome.num_preemptions,
        busy=outcome.busy,
    )


def run_cells(
    base: Base, cells: Sequence[Cell], jobs: int, on_cell: Callable[[CellResult], None]
) -> list[CellResult]:
    """In the order of the cells; on_cell hears of each as it ends.

    Ctrl-C and a cell's error end the other processes.
    """
    if jobs <= 1 or len(cells) <= 1:
        return list(_one_by_one(base, cells, on_cell))
    results: dict[int, CellResult] = {}
    with ProcessPoolExecutor(min(jobs, len(cells)), get_context("spawn")) as pool:
        futures = {pool.submit(run_cell, base, cell): i for i, cell in enumerate(cells)}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                on_cell(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index] for index in range(len(cells))]


def best_splits(results: Sequence[CellResult]) -> list[CellResult]:
    """Of each policy and rate, the cell of the best split: what an oracle would have chosen."""
    best: dict[tuple[str, float], CellResult] = {}
    for result in results:
        key = (result.policy, result.rate)
        if key not in best or result.goodput > best[key].goodput:
            best[key] = result
    return list(best.values())


def spec_of(base: Base, cell: Cell) -> ClusterSpec:
    prefill, decode = cell.split
    limits_ms = parse_slos(base.slos).default.limits_ms
    units = unit_tokens(base.order) if base.auto_units else base.spec.unit_tokens
    return replace(
        base.spec,
        num_prefill=prefill,
        num_decode=decode,
        policy=cell.strategy.policy,
        local_prefill_max_tokens=cell.strategy.local_tokens,
        unit_tokens=units,
        ttft_slo_ms=limits_ms.get("ttft", 0.0),
        tpot_slo_ms=limits_ms.get("tpot", 0.0),
    )


def unit_tokens(order: Order) -> int:
    """What one hash id of a trace stands for, if whole blocks do; real blocks otherwise."""
    tokens = order.scaling.scaled_block_tokens
    return tokens if order.trace is not None and tokens % 16 == 0 else 16


def workload_of(base: Base, rate: float) -> Workload:
    """The base's workload at that rate; rate 0 leaves it. Raises SimulationError."""
    order = base.order
    if rate and order.trace is not None:
        scaling = replace(order.scaling, time_scale=order.scaling.time_scale * rate)
        order = replace(order, scaling=scaling)
    elif rate:
        order = replace(order, rate=f"{rate:g}")
    workload = _planned(order)
    if any(turn.messages for conversation in workload.conversations for turn in conversation.turns):
        raise SimulationError("a dataset's messages have no token counts: simulate a trace")
    return workload


@lru_cache(maxsize=2)
def _planned(order: Order) -> Workload:
    """Cells of one rate follow one another in a process: the trace is read once for them."""
    return plan_workload(order)


def _one_by_one(
    base: Base, cells: Sequence[Cell], on_cell: Callable[[CellResult], None]
) -> Iterator[CellResult]:
    for cell in cells:
        result = run_cell(base, cell)
        on_cell(result)
        yield result


def _split(text: str) -> tuple[int, int]:
    match = _SPLIT.fullmatch(text.strip())
    if match is None or int(match[1]) + int(match[2]) == 0:
        raise SimulationError(f"{text!r} is not a split such as 3:5 (prefill:decode)")
    return int(match[1]), int(match[2])


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise SimulationError(f"{text!r} is not a rate")
    return rate
