"""What second placements cost a busy cluster, in simulation.

    python -m baton.bench.hedging --trace conversation_trace.jsonl --out hedging.jsonl

For each split and seed (a part of the trace) the capacity is the greatest rate at which 90 % of the
requests meet both objectives, as baton.bench.goodput finds it. At shares of it the same requests
are sent with hedging off and on: to equal workers, to some of which one prefill worker takes twice
the time for everything, and to equal ones of which a prefill worker stands still for 2 s every half
minute. What is in the output file is not run again. Prints the table of docs/routing.md.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import numpy as np

from baton.bench.goodput import PROFILE, Case, greatest_rate, is_met, trace_part
from loadtest.faults import parse_fault
from profiles.catalog import load_profile
from profiles.profile import Profile
from runtime.log import configure
from runtime.metrics import GATEWAY_METRICS, Metrics
from simulate.run import simulate
from simulate.spec import ClusterSpec, PoolSpec
from wire.messages import Role

SPLITS = ((2, 2), (4, 4))
SHARES = (0.7, 0.9, 1.0)
HEDGES = (0.0, 1.0, 2.0)  # 0: off
KINDS = ("equal", "one slow", "stalls")
_TPOT_MS, _GBPS, _WINDOW_S = 30.0, 100.0, 180.0
_HALVINGS = 7
_STALLS = tuple(parse_fault("freeze", f"prefill@{at_s}s+2s") for at_s in range(15, 180, 30))
_HEAD = (
    "| workers | split | load | hedge | goodput/s | met | TTFT p50, s | p99, s | work "
    "| placed twice | won |",
    f"|{'---|' * 11}",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation. share: of the capacity, which is `rate` requests a second."""

    split: tuple[int, int]
    kind: str
    seed: int
    share: float
    hedge: float
    rate: float

    @property
    def key(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Figures:
    """goodput: requests a second that met both objectives; met: their share. busy_s: in steps, of
    all engines. hedged: share of the requests that were placed twice; won: share of these whose
    second placement gave the first token."""

    goodput: float
    met: float
    ttft_p50_s: float
    ttft_p99_s: float
    busy_s: float
    hedged: float
    won: float


def figures(run: Run, trace: Path) -> Figures:
    configure("bench", level="error")  # of this process of the pool
    metrics = Metrics(GATEWAY_METRICS)
    workload = trace_part(trace, run.seed, run.rate * run.share, _WINDOW_S)
    outcome = simulate(_spec(run), workload, metrics=metrics)
    times_s = [record.ttft_s for record in outcome.records if record.ttft_s is not None]
    num_met = sum(is_met(record, _TPOT_MS) for record in outcome.records)
    ends = {end: _hedges(metrics, end) for end in ("won", "lost", "failed", "cancelled")}
    return Figures(
        goodput=num_met / _WINDOW_S,
        met=num_met / len(outcome.records),
        ttft_p50_s=float(np.percentile(times_s, 50)),
        ttft_p99_s=float(np.percentile(times_s, 99)),
        busy_s=sum(outcome.busy.values()) * outcome.end_s,
        hedged=sum(ends.values()) / len(outcome.records),
        won=ends["won"] / max(1.0, sum(ends.values())),
    )


def _hedges(metrics: Metrics, outcome: str) -> float:
    (family,) = metrics.counter("baton_hedges_total", outcome=outcome).collect()
    return float(family.samples[0].value)


def _spec(run: Run) -> ClusterSpec:
    profile = replace(load_profile(PROFILE), link_bytes_per_s=_GBPS * 1e9 / 8)
    num_prefill, num_decode = run.split
    pools: tuple[PoolSpec, ...] = ()
    if run.kind == "one slow":
        pools = (
            PoolSpec(Role.PREFILL, 1, _half_as_fast(profile)),
            PoolSpec(Role.PREFILL, num_prefill - 1, profile),
            PoolSpec(Role.DECODE, num_decode, profile),
        )
    return ClusterSpec(
        *run.split,
        profile,
        profile,
        policy="predicted",
        tpot_slo_ms=_TPOT_MS,
        seed=run.seed,
        hedge=run.hedge,
        pools=pools,
        faults=_STALLS if run.kind == "stalls" else (),
    )


def _half_as_fast(profile: Profile) -> Profile:
    return replace(
        profile,
        step_s=2 * profile.step_s,
        sequence_s=2 * profile.sequence_s,
        context_token_s=2 * profile.context_token_s,
        prefill_step_s=2 * profile.prefill_step_s,
        prefill_token_s=2 * profile.prefill_token_s,
        prefill_pair_s=2 * profile.prefill_pair_s,
    )


class Ledger:
    """Figures by run, in a file that a later run goes on with."""

    def __init__(self, path: Path, trace: Path, jobs: int) -> None:
        self._path, self._trace, self._jobs = path, trace, jobs
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        self._figures = {json.dumps(row["run"]): Figures(**row["figures"]) for row in rows}

    def run(self, runs: Iterable[Run]) -> dict[Run, Figures]:
        wanted = list(runs)
        new = [run for run in wanted if run.key not in self._figures]
        for run, found in self._simulated(new):
            self._figures[run.key] = found
            with self._path.open("a") as file:
                file.write(json.dumps({"run": asdict(run), "figures": asdict(found)}) + "\n")
        return {run: self._figures[run.key] for run in wanted}

    def _simulated(self, runs: list[Run]) -> Iterator[tuple[Run, Figures]]:
        with ProcessPoolExecutor(self._jobs, get_context("spawn")) as pool:
            simulated = pool.map(partial(figures, trace=self._trace), runs)
            yield from zip(runs, simulated, strict=True)


def capacities(trace: Path, num_seeds: int, jobs: int) -> dict[tuple[tuple[int, int], int], float]:
    """Requests a second of equal workers without hedging, by split and seed."""
    keys = list(product(SPLITS, range(num_seeds)))
    cases = [
        Case(_TPOT_MS, _GBPS, split, "predicted", 0, seed, _WINDOW_S, _HALVINGS)
        for split, seed in keys
    ]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        return dict(zip(keys, pool.map(partial(greatest_rate, trace=trace), cases), strict=True))


def table(found: dict[Run, Figures]) -> list[str]:
    """Means over the seeds; work: of all engines, beside the same load without hedging."""
    lines = list(_HEAD)
    for kind, split, share, hedge in product(KINDS, SPLITS, SHARES, HEDGES):
        here = [one for run, one in found.items() if _is(run, kind, split, share, hedge)]
        plain = [one for run, one in found.items() if _is(run, kind, split, share, 0.0)]
        if not here:
            continue
        work = mean(one.busy_s / base.busy_s for one, base in zip(here, plain, strict=True))
        cells = (
            kind,
            f"{split[0]}:{split[1]}",
            f"{share:.0%}",
            f"{hedge:g}" if hedge else "off",
            f"{mean(one.goodput for one in here):.2f}",
            f"{mean(one.met for one in here):.1%}",
            f"{mean(one.ttft_p50_s for one in here):.2f}",
            f"{mean(one.ttft_p99_s for one in here):.2f}",
            f"{work - 1:+.1%}",
            f"{mean(one.hedged for one in here):.1%}",
            f"{mean(one.won for one in here):.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _is(run: Run, kind: str, split: tuple[int, int], share: float, hedge: float) -> bool:
    return (run.kind, run.split, run.share, run.hedge) == (kind, split, share, hedge)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m baton.bench.hedging")
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("hedging.jsonl"))
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--shares", default=",".join(map(str, SHARES)))
    given = parser.parse_args()
    kinds, shares = given.kinds.split(","), [float(share) for share in given.shares.split(",")]
    rates = capacities(given.trace, given.seeds, given.jobs)
    for (split, seed), rate in rates.items():
        print(f"capacity of {split[0]}:{split[1]}, seed {seed}: {rate:.2f}/s", flush=True)
    runs = [
        Run(split, kind, seed, share, hedge, rate)
        for kind, ((split, seed), rate), share, hedge in product(
            kinds, rates.items(), shares, HEDGES
        )
    ]
    found = Ledger(given.out, given.trace, given.jobs).run(runs)
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
