"""Goodput of placement rules in simulation: the greatest rate that a rule carries, by regime.

    python -m baton.bench.goodput --trace conversation_trace.jsonl --out goodput.jsonl

For each regime (objective of a token's time, link rate), split and seed: the greatest rate at which
90 % of the requests meet both objectives, found by bisection on the rate's logarithm. A seed is
another part of the trace. Peers are tuned first, on a seed of their own: each keeps the setting and
chunk that were best at any split. What is in the output file is not run again, so that an
interrupted run goes on. --markdown writes the table of docs/routing.md as far as it is measured.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

from loadtest.order import Order, plan_workload
from loadtest.plan import Workload
from loadtest.record import RequestRecord
from loadtest.trace import TraceScaling
from profiles.catalog import load_profile
from simulate.run import simulate
from simulate.spec import ClusterSpec
from simulate.strategies import parse_strategy

REGIMES = tuple((tpot_ms, gbps) for gbps in (100, 10) for tpot_ms in (30, 12, 8))
SPLITS = ((2, 6), (3, 5), (4, 4), (5, 3), (6, 2))
OURS = ("predicted", 0)
PROFILE = "llama-3.1-8b@h200"
# Each peer with the settings among which it is tuned; the number is the chunk of a decode worker.
PEERS: dict[str, tuple[tuple[str, int], ...]] = {
    "ppd": (("ppd", 0), ("ppd:local=512", 0), ("ppd", 512), ("ppd:local=8192", 512)),
    "llm_d": (("llm_d", 0), ("llm_d:local=2048", 512), ("llm_d:match=0.5", 0)),
    "dynamo": (("dynamo", 0), ("dynamo:overlap_weight=2", 0), ("dynamo:local=512", 512)),
    "mooncake": (("mooncake", 0), ("mooncake:local=512", 512)),
    "sglang": (("sglang", 0), ("sglang:match=0.6", 0)),
    "least_load": (("least_load", 0), ("least_load:local=512", 512)),
}
_HEAD = (
    f"| TPOT, link | {' | '.join(f'{p}:{d}' for p, d in SPLITS)} | worst / best split "
    "| best peer | best / best peer |",
    f"|{'---|' * (len(SPLITS) + 4)}",
)
_ATTAIN = 0.9
_LEAST, _MOST = 2.0, 20.0  # requests a second; below the least counts as 0
_FIRST_SEED_S, _SEED_S = 450.0, 250.0  # parts of the trace, behind the one that rules were made on
_TUNING_SEED = 5


@dataclass(frozen=True, slots=True)
class Case:
    """One search. chunk: tokens of a decode worker's step, 0 for the profile's."""

    tpot_ms: float
    gbps: float
    split: tuple[int, int]
    policy: str
    chunk: int
    seed: int
    window_s: float
    num_halvings: int
    profile: str = PROFILE

    @property
    def row(self) -> dict[str, object]:
        """As the output file has it: files of before there were other profiles go on."""
        row = asdict(self)
        if self.profile == PROFILE:
            del row["profile"]
        return row

    @property
    def key(self) -> str:
        return json.dumps(self.row, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is spent. tuning: of the searches by which peers are tuned."""

    trace: Path
    num_seeds: int
    window_s: float
    num_halvings: int
    tuning_window_s: float
    tuning_halvings: int
    peers: tuple[str, ...]
    profile: str = PROFILE


class Ledger:
    """Finished searches, in a file that a later run goes on with."""

    def __init__(self, path: Path, trace: Path, jobs: int) -> None:
        self._path, self._trace, self._jobs = path, trace, jobs
        lines = path.read_text().splitlines() if path.exists() else []
        self._rates: dict[str, float] = {}
        for line in lines:
            row = json.loads(line)
            self._rates[json.dumps(row["case"], sort_keys=True)] = row["rate"]

    def run(self, cases: Iterable[Case]) -> dict[Case, float]:
        """The rate of each case; what is new is searched on all cores and written at once."""
        wanted = list(dict.fromkeys(cases))
        new = [case for case in wanted if case.key not in self._rates]
        for case, rate in self._search(new):
            self._rates[case.key] = rate
            with self._path.open("a") as file:
                file.write(json.dumps({"case": case.row, "rate": rate}) + "\n")
        return {case: self._rates[case.key] for case in wanted}

    def _search(self, cases: list[Case]) -> Iterator[tuple[Case, float]]:
        with ProcessPoolExecutor(self._jobs, get_context("spawn")) as pool:
            yield from zip(
                cases, pool.map(greatest_rate, cases, [self._trace] * len(cases)), strict=True
            )


def greatest_rate(case: Case, trace: Path) -> float:
    """By bisection; 0 where even the least rate is too much."""
    low, high = _LEAST, _MOST
    if attainment(case, trace, low) < _ATTAIN:
        return 0.0
    for _ in range(case.num_halvings):
        middle = (low * high) ** 0.5
        if attainment(case, trace, middle) >= _ATTAIN:
            low = middle
        else:
            high = middle
    return float((low * high) ** 0.5)


def attainment(case: Case, trace: Path, rate: float) -> float:
    """Share of the requests that meet both objectives at that many requests a second."""
    strategy = parse_strategy(case.policy)
    profile = load_profile(case.profile)
    profile = replace(profile, link_bytes_per_s=case.gbps * 1e9 / 8)
    spec = ClusterSpec(
        *case.split,
        profile,
        profile,
        policy=strategy.policy,
        local_prefill_max_tokens=strategy.local_tokens,
        decode_batch_tokens=case.chunk,
        tpot_slo_ms=case.tpot_ms,
        seed=case.seed,
    )
    workload = trace_part(trace, case.seed, rate, case.window_s)
    return mean(is_met(record, case.tpot_ms) for record in simulate(spec, workload).records)


def trace_part(trace: Path, seed: int, rate: float, window_s: float) -> Workload:
    """The seed's part of the trace, as fast as gives `rate` requests a second for window_s."""
    start_s = _FIRST_SEED_S + _SEED_S * seed
    own = own_rate(trace)
    num_requests = round(rate * window_s)
    end_s = start_s + 2 * num_requests / own
    scaling = TraceScaling(start_s=start_s, end_s=end_s, time_scale=rate / own)
    return plan_workload(Order(trace=trace, requests=num_requests, seed=seed, scaling=scaling))


def is_met(record: RequestRecord, tpot_ms: float) -> bool:
    """Two seconds to the first token, and a millisecond more for each token over 2,000."""
    if not record.is_ok or record.ttft_s is None:
        return False
    limit_s = 2 + max(0, record.num_input - 2000) / 1e3
    return record.ttft_s <= limit_s and (record.tpot_s or 0.0) * 1e3 <= tpot_ms


@lru_cache(maxsize=1)
def own_rate(trace: Path) -> float:
    """Of the whole trace, in requests a second."""
    workload = plan_workload(Order(trace=trace))
    return workload.num_requests / workload.duration_s


def tuned(ledger: Ledger, plan: Plan, regime: tuple[float, float]) -> dict[str, Case]:
    """Each peer's best setting and split in that regime, as a case."""
    window_s, halvings = plan.tuning_window_s, plan.tuning_halvings
    cases = {
        Case(*regime, split, policy, chunk, _TUNING_SEED, window_s, halvings, plan.profile): peer
        for peer in plan.peers
        for policy, chunk in PEERS[peer]
        for split in SPLITS
    }
    rates = ledger.run(cases)
    return {
        peer: max((c for c in cases if cases[c] == peer), key=rates.__getitem__)
        for peer in plan.peers
    }


def compared(ledger: Ledger, plan: Plan, regime: tuple[float, float]) -> dict[str, float]:
    """Mean greatest rates over the seeds: ours by split, each peer at its best."""
    window_s, halvings = plan.window_s, plan.num_halvings
    rows = {
        f"predicted {split[0]}:{split[1]}": Case(
            *regime, split, *OURS, 0, window_s, halvings, plan.profile
        )
        for split in SPLITS
    }
    for case in tuned(ledger, plan, regime).values():
        name = f"{case.policy} chunk {case.chunk or 'default'} {case.split[0]}:{case.split[1]}"
        rows[name] = replace(case, window_s=plan.window_s, num_halvings=plan.num_halvings)
    cases = {
        replace(case, seed=seed): name
        for name, case in rows.items()
        for seed in range(plan.num_seeds)
    }
    rates = ledger.run(cases)
    return {name: mean(rates[c] for c in cases if cases[c] == name) for name in rows}


def report(regime: tuple[float, float], rates: dict[str, float]) -> str:
    ours = {name: rate for name, rate in rates.items() if name.startswith("predicted ")}
    peers = {name: rate for name, rate in rates.items() if name not in ours}
    best = max(ours.values())
    lines = [f"TPOT {regime[0]:g} ms, {regime[1]:g} Gb/s: requests/s at 90 % attainment"]
    lines += [f"  {name:44} {rate:6.2f}" for name, rate in rates.items()]
    lines.append(f"  best / best peer: {_over(best, peers)} (aim 1.05)")
    lines.append(
        f"  worst split / best split {min(ours.values()) / max(best, 1e-9):.2f} (aim 0.95)"
    )
    return "\n".join(lines)


def table_row(regime: tuple[float, float], rates: dict[str, float]) -> str:
    """Of docs/routing.md's table: our rate at each split, then each peer's at its best."""
    ours = [rate for name, rate in rates.items() if name.startswith("predicted ")]
    peers = {name: rate for name, rate in rates.items() if not name.startswith("predicted ")}
    best, peer = max(ours), max(peers, key=peers.__getitem__, default="not asked")
    cells = [f"{regime[0]:g} ms, {regime[1]:g} Gb/s"]
    cells += [f"**{rate:.2f}**" if rate == best else f"{rate:.2f}" for rate in ours]
    cells += [
        f"{min(ours) / max(best, 1e-9):.2f}",
        f"{peer}: {peers.get(peer, 0):.2f}",
        _over(best, peers),
    ]
    return f"| {' | '.join(cells)} |"


def _over(best: float, peers: dict[str, float]) -> str:
    """Our best rate over the best peer's."""
    most = max(peers.values(), default=0.0)
    if most:
        return f"{best / most:.2f}"
    return f"no peer carries {_LEAST:g}" if peers else "not asked"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m baton.bench.goodput")
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("goodput.jsonl"))
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="two seeds, coarser, shorter")
    parser.add_argument("--seeds", type=int, default=0, help="0: five, two with --quick")
    parser.add_argument("--profile", default=PROFILE)
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--peers", default=",".join(PEERS), help="empty: ours alone")
    parser.add_argument("--regimes", default="", help="as 8@100,12@10: ms a token @ Gb/s")
    given = parser.parse_args()
    peers = tuple(name for name in given.peers.split(",") if name)
    plan = Plan(given.trace, 5, 180.0, 7, 120.0, 6, peers)
    if given.quick:
        plan = Plan(given.trace, 2, 90.0, 5, 40.0, 4, peers)
    plan = replace(plan, num_seeds=given.seeds or plan.num_seeds, profile=given.profile)
    chosen = [part.split("@") for part in given.regimes.split(",") if part]
    regimes = [(float(tpot), float(gbps)) for tpot, gbps in chosen] or REGIMES
    ledger = Ledger(given.out, given.trace, given.jobs)
    lines = list(_HEAD)
    for regime in regimes:
        rates = compared(ledger, plan, regime)
        print(report(regime, rates), flush=True)
        lines.append(table_row(regime, rates))
        if given.markdown:
            given.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
