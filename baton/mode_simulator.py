"""How each mode would have served the last minutes: simulated in a process of its own.

`python -m baton.mode_simulator` reads one case as JSON from its standard input, and writes the
share of requests within both objectives by mode.
"""

import sys

import msgspec

from baton.mode_case import ModeCase
from control_plane.planner.demand import WorkerModel
from control_plane.planner.types import Objectives, Traffic
from loadtest.arrivals import GapProcess, RateSegment
from loadtest.lengths import LengthSpec
from loadtest.plan import Workload
from loadtest.record import RequestRecord
from loadtest.synthetic import Phase, synthetic_workload
from profiles.profile import Profile
from simulate.run import simulate
from simulate.spec import ClusterSpec
from wire.cluster import Mode

_MAX_REQUESTS = 1500
_KV_BYTES_PER_TOKEN = 131072
_LINK_BYTES_PER_S = 10e9


def scores_of(case: ModeCase) -> tuple[tuple[Mode, float], ...]:
    """The share of requests that meets both objectives, by mode that these workers allow."""
    workload = _workload(case)
    total = case.num_prefill + case.num_decode
    scores = [(Mode.AGGREGATED, _attained(case, workload, 0, total, Mode.AGGREGATED))]
    if case.num_prefill and case.num_decode:
        for mode in (Mode.HYBRID, Mode.DISAGGREGATED):
            split = (case.num_prefill, case.num_decode)
            scores.append((mode, _attained(case, workload, *split, mode)))
    return tuple(scores)


def _attained(
    case: ModeCase, workload: Workload, num_prefill: int, num_decode: int, mode: Mode
) -> float:
    """Gateways place as by default, in the mode."""
    profile, objectives = _profile(case.model), case.objectives
    spec = ClusterSpec(
        num_prefill,
        num_decode,
        profile,
        profile,
        policy="predicted",
        mode=mode,
        ttft_slo_ms=1e3 * objectives.ttft_s,
        tpot_slo_ms=1e3 * objectives.tpot_s,
    )
    records = simulate(spec, workload).records
    return sum(_is_met(record, objectives) for record in records) / len(records)


def _workload(case: ModeCase) -> Workload:
    """Random arrivals at each stretch's rate, lengths of its mean and spread; the whole is cut in
    time to _MAX_REQUESTS. Cached tokens are left out of the prompts."""
    expected = sum(seconds * traffic.requests_per_s for seconds, traffic in case.stretches)
    share = min(1.0, _MAX_REQUESTS / expected)
    phases = [
        _phase(str(number), seconds * share, traffic)
        for number, (seconds, traffic) in enumerate(case.stretches)
    ]
    return synthetic_workload(phases, GapProcess(), 1)


def _phase(name: str, seconds: float, traffic: Traffic) -> Phase:
    mean = max(1.0, traffic.uncached_tokens)
    cv2 = max(0.0, traffic.uncached_squares / mean**2 - 1)
    answer = max(1, round(traffic.output_tokens))
    rate = RateSegment(seconds, traffic.requests_per_s, traffic.requests_per_s)
    return Phase(
        name,
        (rate,),
        LengthSpec(1, max(2, round(16 * mean)), mean, max(0.01, min(3.0, cv2**0.5))),
        LengthSpec(max(1, answer // 2), max(1, answer + answer // 2)),
    )


def _profile(model: WorkerModel) -> Profile:
    costs = model.costs
    return Profile(
        name="live",
        source="calibrated from step telemetry",
        step_s=max(1e-5, costs.step_s),
        sequence_s=costs.sequence_s,
        context_token_s=costs.context_token_s,
        prefill_token_s=costs.prefill_token_s,
        prefill_pair_s=costs.prefill_pair_s,
        prefill_step_s=costs.prefill_step_s,
        kv_tokens=model.kv_tokens,
        kv_bytes_per_token=_KV_BYTES_PER_TOKEN,
        num_layers=32,
        max_model_len=model.kv_tokens,
        link_bytes_per_s=_LINK_BYTES_PER_S,
        max_num_seqs=model.max_num_seqs,
    )


def _is_met(record: RequestRecord, objectives: Objectives) -> bool:
    ttft_s, tpot_s = record.ttft_s, record.tpot_s
    in_time = ttft_s is not None and ttft_s <= objectives.ttft_s
    return in_time and (tpot_s is None or tpot_s <= objectives.tpot_s)


def main() -> None:
    case = msgspec.json.decode(sys.stdin.buffer.read(), type=ModeCase)
    sys.stdout.buffer.write(msgspec.json.encode(scores_of(case)))


if __name__ == "__main__":
    main()
