"""What the history keeps of one moment: loads from the workers, the rest from the planner."""

from collections.abc import Mapping, Sequence

from control_plane.api.facts import ClusterFacts
from wire.cluster import WorkerStatus
from wire.messages import Role, StepTotals

Values = dict[str, float | None]

# series -> the planner's inputs that it is read from
_FROM_INPUTS = {
    "requests_s": "requests_per_s",
    "goodput_s": "goodput_per_s",
    "ttft_attained": "ttft_attainment",
    "tpot_attained": "tpot_attainment",
}


class Sampler:
    """Turns totals that only grow into rates; a new or restarted worker counts from then on."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, int], StepTotals] = {}
        self._at_s: float | None = None

    def sample(self, facts: ClusterFacts, at_s: float) -> Values:
        """at_s: of a clock that does not jump; rates are null in the first sample."""
        elapsed_s = None if self._at_s is None else at_s - self._at_s
        totals = {(w.info.worker_id, w.info.epoch): w.report.totals for w in facts.workers}
        values: Values = {}
        if elapsed_s:
            before = self._before
            pairs = [(before[key], now) for key, now in totals.items() if key in before]
            values["uncached_tokens_s"] = (
                sum(now.num_prefill_tokens - old.num_prefill_tokens for old, now in pairs)
                / elapsed_s
            )
            values["output_tokens_s"] = (
                sum(now.num_decode_tokens - old.num_decode_tokens for old, now in pairs) / elapsed_s
            )
        self._before, self._at_s = totals, at_s
        return values | _now(facts)


def _now(facts: ClusterFacts) -> Values:
    decision = facts.decision.decision if facts.decision else None
    inputs: Mapping[str, float] = dict(decision.inputs) if decision else {}
    values: Values = {
        "queue": float(sum(worker.report.num_waiting for worker in facts.workers)),
        "running": float(sum(worker.report.num_running for worker in facts.workers)),
    }
    for role in Role:
        values[f"{role.value}_workers"] = float(len(facts.of(role)))
        values[f"{role.value}_kv_use"] = _kv_use(facts.of(role))
        wanted = decision.desired.of(role) if decision else None
        values[f"{role.value}_recommended"] = wanted
    values |= {name: inputs.get(key) for name, key in _FROM_INPUTS.items()}
    return {name: value for name, value in values.items() if value is not None}


def _kv_use(workers: Sequence[WorkerStatus]) -> float | None:
    blocks = sum(worker.report.num_blocks for worker in workers)
    free = sum(worker.report.num_free_blocks for worker in workers)
    return (blocks - free) / blocks if blocks else None
