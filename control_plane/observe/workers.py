"""The workers as their beats show them: load, calibrated step costs, and whether they add up."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from control_plane.planner.types import WorkerFigures
from router.predictor import StepCosts, StepPredictor
from wire.cluster import WorkerStatus
from wire.messages import StepTotals, WorkerReport

_WINDOW_S = 20.0
_BUSY_LIMIT = 1.2  # of wall time, for one engine
_SAME_BEAT_S = 0.01
_TOKEN_LIMIT = 1.5  # of what all gateways sent
_STEP_TOKENS = 2048.0  # at least, in a step of prompts under load
_TOKEN_SLACK = 200.0  # tokens that may be on their way, and restarts


@dataclass(slots=True)
class _Known:
    epoch: int
    predictor: StepPredictor
    history: list[tuple[float, StepTotals]] = field(default_factory=list)


class WorkerWatch:
    """Learns each worker's step costs from its reports, with what equal hardware shows.

    seeds: costs by hardware kind, from profiles. hardware: a worker's kind, by its id and what it
    says of itself.
    """

    def __init__(
        self,
        seeds: Mapping[str, StepCosts],
        hardware: Callable[[str, str], str] = lambda worker_id, hardware: "",
        block_size: int = 16,
    ) -> None:
        self._seeds = seeds
        self._hardware = hardware
        self._block_size = block_size
        self._pools: dict[str, StepPredictor] = {}
        self._known: dict[str, _Known] = {}

    def figures(
        self, workers: Iterable[WorkerStatus], now_s: float, output_tokens_per_s: float
    ) -> tuple[WorkerFigures, ...]:
        """output_tokens_per_s: what the gateways sent to clients; NaN where nobody knows."""
        listed = tuple(workers)
        here = {status.info.worker_id for status in listed}
        self._known = {name: known for name, known in self._known.items() if name in here}
        return tuple(self._figures(status, now_s, output_tokens_per_s) for status in listed)

    def _figures(
        self, status: WorkerStatus, now_s: float, output_tokens_per_s: float
    ) -> WorkerFigures:
        info, report = status.info, status.report
        kind = self._hardware(info.worker_id, info.hardware)
        known = self._known_of(status, kind)
        at_s = now_s - status.beat_age_s  # beats of a large cluster are seconds apart
        complaint = _impossible(report) or self._contradiction(
            known, report, at_s, output_tokens_per_s
        )
        if not complaint:
            known.predictor.observe(report.totals, at_s)
        return WorkerFigures(
            worker_id=info.worker_id,
            role=info.role,
            costs=known.predictor.costs(),
            kv_tokens=info.num_blocks * info.fingerprint.block_size,
            step_tokens=_step_tokens(known.history),
            num_running=report.num_running,
            num_waiting=report.num_waiting,
            waiting_tokens=report.waiting_tokens,
            context_tokens=report.context_tokens,
            kv_use=1 - report.num_free_blocks / report.num_blocks if report.num_blocks else 0.0,
            hardware=kind,
            group=str(info.fingerprint),
            draining=info.draining or report.draining,
            flipping=report.flipping,
            age_s=status.beat_age_s,
            complaint=complaint,
        )

    def _known_of(self, status: WorkerStatus, kind: str) -> _Known:
        name, epoch = status.info.worker_id, status.info.epoch
        known = self._known.get(name)
        if known is None or known.epoch != epoch:
            pool = self._pools.setdefault(kind, StepPredictor())
            known = _Known(epoch, StepPredictor(self._seeds.get(kind), pool))
            self._known[name] = known
        return known

    def _contradiction(
        self, known: _Known, report: WorkerReport, at_s: float, output_tokens_per_s: float
    ) -> str:
        """What the report's sums say that cannot be, over the last seconds before at_s."""
        history = known.history
        if history and report.totals.num_steps < history[-1][1].num_steps:
            return "its sums went back though it is the same process"
        if not history or at_s - history[-1][0] > _SAME_BEAT_S:
            history.append((at_s, report.totals))
        while at_s - history[0][0] > _WINDOW_S:
            history.pop(0)
        begin_s, begin = history[0]
        passed_s = at_s - begin_s
        if passed_s < _WINDOW_S / 2:
            return ""
        busy_s = report.totals.step_s - begin.step_s
        if busy_s > _BUSY_LIMIT * passed_s + 1:
            return f"it reports {busy_s:.0f} s of steps in {passed_s:.0f} s"
        tokens = report.totals.num_decode_tokens - begin.num_decode_tokens
        sent = output_tokens_per_s * passed_s
        if not math.isnan(sent) and tokens > _TOKEN_LIMIT * sent + _TOKEN_SLACK * passed_s:
            return f"it reports {tokens} tokens generated, all gateways sent {sent:.0f}"
        return ""


def _step_tokens(history: list[tuple[float, StepTotals]]) -> float:
    """Prompt tokens in a step that has some. Light load makes small steps, which says nothing."""
    if not history:
        return _STEP_TOKENS
    first, last = history[0][1], history[-1][1]
    steps = last.num_prefill_steps - first.num_prefill_steps
    tokens = last.num_prefill_tokens - first.num_prefill_tokens
    return max(_STEP_TOKENS, tokens / steps) if steps > 0 else _STEP_TOKENS


def _impossible(report: WorkerReport) -> str:
    if report.num_free_blocks > report.num_blocks:
        return f"it reports {report.num_free_blocks} free of {report.num_blocks} KV blocks"
    counts = (
        report.num_running,
        report.num_waiting,
        report.waiting_tokens,
        report.context_tokens,
        report.totals.num_steps,
    )
    if min(counts) < 0 or not math.isfinite(report.totals.step_s):
        return "it reports counts below zero"
    return ""
