"""`baton simulate`: a cluster in virtual time, one run or a whole grid."""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from baton.commands.loadtest_flags import LoadFlags, command_line
from baton.commands.simulate_replay import run_replay
from baton.commands.simulate_tables import PlannedRun, capacity_table, sweep_table
from loadtest.errors import LoadtestError
from loadtest.faults import Fault, parse_fault
from loadtest.html_report import write_html
from loadtest.plan import Workload
from loadtest.quantities import parse_duration_s
from loadtest.result_files import write_json, write_requests
from loadtest.slo import parse_slos
from loadtest.terminal import listed, print_result
from profiles.catalog import ProfileError, load_profile, with_host_memory
from profiles.profile import Profile
from runtime.lifecycle import collecting_rarely
from runtime.log import configure
from runtime.sizes import parse_bytes
from simulate.capacity import CapacitySearch
from simulate.cluster_file import read_cluster_file
from simulate.errors import SimulationError
from simulate.fault_rates import RandomFaults
from simulate.report import result_of
from simulate.run import simulate
from simulate.spec import ClusterSpec
from simulate.strategies import STRATEGIES
from simulate.sweep import (
    Base,
    parse_grid,
    parse_splits,
    parse_strategies,
    run_cells,
    spec_of,
    workload_of,
)

_PANELS = ("Arrivals", "Requests", "Trace")
_MEASURING = ("slo", "attain", "warmup", "seed")
_EXIT_BAD_INPUT = 2
_EXIT_DIFFERENT = 1

SplitFlag = Annotated[str, typer.Option(help="Prefill and decode workers, as in 4:4.")]
ProfileFlag = Annotated[str, typer.Option(help="Of every worker: model@device[xGPUs], or a file.")]
PoolProfileFlag = Annotated[str, typer.Option(help="Of one pool; empty: --profile.")]
PolicyFlag = Annotated[str, typer.Option(help=f"One of {', '.join(STRATEGIES)}, tuned by :k=v.")]
SweepFlag = Annotated[
    str, typer.Option(help="'split=2:6..6:2 policy=baton,dynamo rate=1,2': one run for each.")
]
CapacityFlag = Annotated[
    str, typer.Option(help="Profiles, 'a@h100,a@h200': how many workers of each meet --slo.")
]
MaxWorkersFlag = Annotated[int, typer.Option(help="Where the search for a capacity ends.")]
JobsFlag = Annotated[int, typer.Option(help="Processes of a sweep; 0: one a core.")]
TokensFlag = Annotated[int, typer.Option(help="Tokens in one step; 0: the profile's.")]
SeqsFlag = Annotated[int, typer.Option(help="Sequences at once in a worker; 0: the profile's.")]
HostFlag = Annotated[
    str, typer.Option(help="Of a worker's host, for KV that its cache evicts: 256GiB; 0: none.")
]
UnitFlag = Annotated[int, typer.Option(help="Tokens of one cached unit; 0: a trace's, or 16.")]
ClusterFlag = Annotated[
    Path | None, typer.Option(help="TOML: pools, links, classes of requests; instead of --split.")
]
KillFlag = Annotated[list[str], typer.Option(help="A worker dies: 'decode@30s', 'prefill-0@1m'.")]
FreezeFlag = Annotated[list[str], typer.Option(help="It stands still: 'decode@30s+5s'.")]
SlowFlag = Annotated[list[str], typer.Option(help="A tenth of its bandwidth: 'decode@30s+5s'.")]
CutFlag = Annotated[list[str], typer.Option(help="No KV reaches or leaves it: 'decode@30s+5s'.")]
RateFlag = Annotated[float, typer.Option(help="Random deaths of a worker per hour.")]
PlannerFlag = Annotated[
    str | None, typer.Option(help="The planner moves the pools: 'max_gpus=8 min_prefill=1'.")
]
ReplayFlag = Annotated[
    Path | None, typer.Option(help="A recorded router's placements again; exit code 1: others.")
]
RecordFlag = Annotated[str, typer.Option(help="Record what reaches placement, for --replay.")]
JsonFlag = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
JsonlFlag = Annotated[Path | None, typer.Option("--jsonl", help="Write one line a request.")]
HtmlFlag = Annotated[Path | None, typer.Option("--html", help="Write a report with plots.")]


def run(
    *,
    split: SplitFlag = "1:1",
    profile: ProfileFlag = "llama-3.1-8b@h200",
    prefill_profile: PoolProfileFlag = "",
    decode_profile: PoolProfileFlag = "",
    policy: PolicyFlag = "baton",
    sweep: SweepFlag = "",
    capacity: CapacityFlag = "",
    max_workers: MaxWorkersFlag = 64,
    jobs: JobsFlag = 0,
    prefill_batch_tokens: TokensFlag = 0,
    decode_batch_tokens: TokensFlag = 0,
    max_num_seqs: SeqsFlag = 0,
    host_kv_memory: HostFlag = "0",
    unit_tokens: UnitFlag = 0,
    cluster: ClusterFlag = None,
    kill: KillFlag = [],  # noqa: B006
    freeze: FreezeFlag = [],  # noqa: B006
    slow: SlowFlag = [],  # noqa: B006
    cut: CutFlag = [],  # noqa: B006
    kills_per_hour: RateFlag = 0.0,
    planner: PlannerFlag = None,
    recording: RecordFlag = "",
    replay: ReplayFlag = None,
    json_file: JsonFlag = None,
    jsonl_file: JsonlFlag = None,
    html_file: HtmlFlag = None,
    **flags: Any,
) -> None:
    """Simulate a cluster under a trace or a made load, with the router's own policies."""
    console = Console(width=None if os.isatty(1) else 160)
    configure("simulate", level="error")  # what befalls simulated workers is in the report
    try:
        if replay is not None:
            raise typer.Exit(0 if run_replay(console, replay) else _EXIT_DIFFERENT)
        if recording and (sweep or capacity):
            raise SimulationError("--recording is of one run: leave --sweep and --capacity out")
        if cluster is not None and not capacity and parse_bytes(host_kv_memory):
            raise SimulationError("the cluster file has each pool's host_kv_memory: leave it out")
        load, host_bytes = LoadFlags(**flags), parse_bytes(host_kv_memory)
        spec = replace(
            _spec(split, prefill_profile or profile, decode_profile or profile, host_bytes),
            seed=load.seed,
            prefill_batch_tokens=prefill_batch_tokens,
            decode_batch_tokens=decode_batch_tokens,
            max_num_seqs=max_num_seqs,
            unit_tokens=unit_tokens or 16,
            faults=_faults(kill=kill, freeze=freeze, slow=slow, cut=cut),
            random_faults=RandomFaults(kills_per_hour),
            recording=recording,
        )
        base = _base(spec, policy, load, cluster, unit_tokens == 0 and not recording)
        jobs = jobs or os.cpu_count() or 1
        if sweep:
            _sweep(console, base, sweep, jobs, json_file)
        elif capacity:
            kinds = [name.strip() for name in capacity.split(",") if name.strip()]
            hardware = [with_host_memory(load_profile(kind), host_bytes) for kind in kinds]
            _capacity(console, base, hardware, load.attain, max_workers, jobs, json_file)
        else:
            with collecting_rarely():
                _one(console, base, planner, json_file, jsonl_file, html_file)
    except (LoadtestError, SimulationError, ProfileError, OSError, ValueError) as error:
        typer.echo(f"baton simulate: {error}", err=True)
        raise typer.Exit(_EXIT_BAD_INPUT) from error


def _spec(split: str, prefill_profile: str, decode_profile: str, host_bytes: int) -> ClusterSpec:
    ((num_prefill, num_decode),) = parse_splits(split)
    return ClusterSpec(
        num_prefill,
        num_decode,
        with_host_memory(load_profile(prefill_profile), host_bytes),
        with_host_memory(load_profile(decode_profile), host_bytes),
    )


def _base(
    spec: ClusterSpec, policy: str, load: LoadFlags, cluster: Path | None, auto_units: bool
) -> Base:
    """What all cells of a grid share. cluster: a file in the place of the specification's pools."""
    (strategy,) = parse_strategies(policy)
    slos = tuple(load.slo)
    if cluster is not None:
        file = read_cluster_file(cluster)
        spec, slos = file.applied_to(spec), (*slos, *file.slos)
    warmup_s = parse_duration_s(load.warmup or "0")
    return Base(spec, strategy, load.order(), slos, warmup_s=warmup_s, auto_units=auto_units)


def _faults(**orders: list[str]) -> tuple[Fault, ...]:
    return tuple(parse_fault(kind, text) for kind, texts in orders.items() for text in texts)


def _one(
    console: Console,
    base: Base,
    planner: str | None,
    json_file: Path | None,
    jsonl_file: Path | None,
    html_file: Path | None,
) -> None:
    (cell,) = parse_grid("").cells(base)
    workload, spec = workload_of(base, cell.rate), spec_of(base, cell)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("requests", total=workload.num_requests)
        planned = None if planner is None else _planned(planner, spec, workload)
        outcome = simulate(
            spec,
            workload,
            lambda done: progress.update(task, completed=done),
            () if planned is None else (planned.controller,),
            None if planned is None else planned.metrics,
        )
    result = result_of(
        spec,
        workload,
        outcome,
        parse_slos(base.slos),
        warmup_s=base.warmup_s,
        label=base.strategy.name,
        command=command_line(),
    )
    print_result(console, result)
    busy = listed([f"{worker_id} {share:.0%}" for worker_id, share in outcome.busy.items()])
    console.print(f"engines busy: {busy}", highlight=False, soft_wrap=True)
    if planned is not None:
        planned.print_decisions(console, outcome)
    if json_file is not None:
        write_json(json_file, result)
    if jsonl_file is not None:
        write_requests(jsonl_file, outcome.records)
    if html_file is not None:
        write_html(html_file, [("", result)])


def _planned(text: str, spec: ClusterSpec, workload: Workload) -> PlannedRun:
    """The planner and what it reads are loaded only where they are asked for."""
    from baton.commands.simulate_planner import planned_simulation

    return planned_simulation(text, spec, workload)


def _sweep(console: Console, base: Base, text: str, jobs: int, json_file: Path | None) -> None:
    grid = parse_grid(text)
    if base.spec.pools and grid.splits:
        raise SimulationError("the cluster file says how many workers there are: leave split= out")
    cells = grid.cells(base)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("simulations", total=len(cells))
        results = run_cells(base, cells, jobs, lambda _: progress.advance(task))
    console.print(sweep_table(results))
    if json_file is not None:
        content = {"command": command_line(), "slo": base.slos, "cells": results}
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))


def _capacity(
    console: Console,
    base: Base,
    profiles: Sequence[Profile],
    attain: float,
    max_workers: int,
    jobs: int,
    json_file: Path | None,
) -> None:
    if not base.slos:
        raise SimulationError("--capacity needs an --slo to meet")
    base = replace(base, spec=replace(base.spec, pools=(), links=()))  # it chooses the workers
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("simulations", total=None)
        search = CapacitySearch(base, attain, max_workers, jobs, lambda _: progress.advance(task))
        needs = search.needs(profiles)
    console.print(capacity_table(needs, max_workers))
    if json_file is not None:
        cells = {need.profile.name: need.cell for need in needs}
        content = {"command": command_line(), "slo": base.slos, "attain": attain, "needs": cells}
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))


def _with_load_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command` the flags of `baton loadtest` that describe a load."""
    own = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = list(own)
    for one in fields(LoadFlags):
        if one.metadata["panel"] in _PANELS or one.name in _MEASURING:
            default = [] if one.default is MISSING else one.default
            option = typer.Option(
                default,
                f"--{one.name.replace('_', '-')}",
                help=one.metadata["help"],
                rich_help_panel=one.metadata["panel"],
            )
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(
                inspect.Parameter(one.name, kind, default=option, annotation=one.type)
            )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


command = _with_load_flags(run)
