"""The simulator against live clusters under the same load, below saturation.

Each row: a percentile in the simulation beside the live one, in milliseconds: of both latencies,
and of the stages that they are made of, which tell where an error comes from. Clusters of modelled
workers, and one of the bundled model, whose profile is fitted from a run before.
"""

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from baton.bench.row import Row
from baton.commands.loadtest_flags import LoadFlags
from baton.commands.loadtest_run import load_once
from baton.commands.profile import fitted_profile
from baton.detached_cluster import detached_cluster
from baton.state_dir import ClusterState
from loadtest.order import plan_workload
from loadtest.result import Distribution, RunResult
from loadtest.slo import parse_slos
from profiles.catalog import load_profile
from profiles.profile import Profile
from simulate.report import result_of
from simulate.run import simulate
from simulate.spec import ClusterSpec

_PERCENTILES = ("p50", "p90")
_WARMUP_S = 5.0
_FIT_S = 30.0
_LINK_BYTES_PER_S = 5_000_000_000  # shared memory of one host
_FIT_LOAD = LoadFlags(
    rate="1..8", duration="30s", input_tokens="64-1200", output_tokens="16-120", max_lag_ms=1e3
)


@dataclass(frozen=True, slots=True)
class Case:
    """A load for one prefill and one decode worker. profile: empty for the bundled model."""

    name: str
    profile: str
    load: LoadFlags


def _load(rate: str, tokens: str, answer: str, prefix: int = 0) -> LoadFlags:
    """A generator that is late on a busy host counts as the server's time on both sides alike."""
    return LoadFlags(
        rate=rate,
        duration="40s",
        input_tokens=tokens,
        output_tokens=answer,
        prefix_tokens=prefix,
        warmup=f"{_WARMUP_S:g}s",
        max_lag_ms=1e3,
    )


_H200 = "llama-3.1-8b@h200"
CASES = (
    Case("modelled.3/s.4000", _H200, _load("3", "4000", "100")),
    Case("modelled.6/s.2000.shared", _H200, _load("6", "2000", "100", 512)),
    Case("modelled.12/s.1500", _H200, _load("12", "1500", "100")),
    # Of its answers to synthetic prompts 37 % begin with an end token, which has no text: a client
    # takes their second token for the first. min_tokens leaves end tokens out.
    Case("bundled.3/s.600", "", replace(_load("3", "600", "60"), extra='{"min_tokens": 60}')),
)


def run(repeats: int, cases: tuple[Case, ...] = CASES) -> list[Row]:
    """The median of the repeats' percentiles; each takes the load's 40 s and a start."""
    return [row for case in cases for row in _rows(case, repeats)]


def _rows(case: Case, repeats: int) -> list[Row]:
    pairs = [pair for _ in range(repeats) for pair in _pairs(case)]
    return [
        row
        for name in dict(figures(pairs[0][0]))
        for row in rows_of(
            f"simulate.{case.name}.{name}",
            [(dict(figures(live))[name], dict(figures(made))[name]) for live, made in pairs],
        )
    ]


def figures(result: RunResult) -> tuple[tuple[str, Distribution], ...]:
    """Both latencies, and the stages that they are made of."""
    overall = result.overall
    stages = ((name.replace(" ", "_"), values) for name, values in result.stages.named)
    return (("ttft", overall.ttft), ("tpot", overall.tpot), *stages)


def rows_of(name: str, pairs: Sequence[tuple[Distribution, Distribution]]) -> list[Row]:
    """pairs: (live, simulated). A stage that took no time live has no row."""
    rows = []
    for percentile in _PERCENTILES:
        live, made = (
            median(getattr(side, percentile) for side in sides)
            for sides in zip(*pairs, strict=True)
        )
        if live > 0:
            title = f"{name}.{percentile}"
            rows.append(Row(title, made, "ms", "the live cluster", live, made / live))
    return rows


def _pairs(case: Case) -> Iterator[tuple[RunResult, RunResult]]:
    """(live, simulated) of one run on a cluster that is started for it."""
    with _cluster(case) as (state, profile):
        live = asyncio.run(load_once(state.http_url, case.load, None)).result
        yield live, simulated(profile, case.load)


@contextmanager
def _cluster(case: Case) -> Iterator[tuple[ClusterState, Profile]]:
    flags = ["--profile", case.profile] if case.profile else []
    with detached_cluster(1, 1, flags) as state:
        profile = load_profile(case.profile) if case.profile else asyncio.run(_fitted(state))
        yield state, profile


async def _fitted(state: ClusterState) -> Profile:
    """From a load that varies, with another seed than the one that is compared."""
    loading = asyncio.create_task(load_once(state.http_url, replace(_FIT_LOAD, seed=17), None))
    profile, _ = await fitted_profile(
        "bundled", state.control_address, state.cluster_token, _FIT_S, _LINK_BYTES_PER_S
    )
    await loading
    return profile


def simulated(profile: Profile, load: LoadFlags) -> RunResult:
    """What the simulator makes of the load on one worker of each kind, by the default policy."""
    workload = plan_workload(load.order())
    spec = ClusterSpec(1, 1, profile, profile, policy="predicted", unit_tokens=16, seed=load.seed)
    outcome = simulate(spec, workload)
    return result_of(spec, workload, outcome, parse_slos(()), warmup_s=_WARMUP_S)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/simulation.md from a file's rows: by how much the simulation is off."""
    cells = {row["name"].removeprefix("simulate."): row["ratio"] - 1 for row in rows}
    columns = [f"{name}.{percentile}" for name in ("ttft", "tpot") for percentile in _PERCENTILES]
    lines = [f"| load | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for case in CASES:
        found = [cells.get(f"{case.name}.{column}") for column in columns]
        shown = ("" if error is None else f"{error:+.1%}" for error in found)
        lines.append(f"| {case.name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """`python -m baton.bench.simulate FILE...`: tables of what `baton bench simulate` wrote."""
    for name in sys.argv[1:]:
        print(markdown(json.loads(Path(name).read_bytes())["rows"]))


if __name__ == "__main__":
    main()
