"""How hard a pool is pressed by what is seen of it: queues, batches, memory, latencies."""

import math

from control_plane.planner.demand import WorkerModel
from control_plane.planner.types import WorkerFigures

_KV_SHARE = 0.95
_FEW_SEQUENCES = 16
_MAX_OBSERVED = 2.0  # latencies say that more is needed, not how much


def believed(workers: tuple[WorkerFigures, ...]) -> tuple[WorkerFigures, ...]:
    return tuple(worker for worker in workers if not worker.complaint)


def queue_pressure(workers: tuple[WorkerFigures, ...], model: WorkerModel, slack_s: float) -> float:
    """The seconds of work that wait at a mean worker, over what a request may wait."""
    if not workers:
        return 0.0
    waiting = sum(worker.waiting_tokens for worker in workers if not worker.complaint)
    waiting_s = waiting * model.costs.prefill_token_s / len(workers)
    return min(_MAX_OBSERVED, waiting_s / slack_s)


def batch_pressure(
    workers: tuple[WorkerFigures, ...], model: WorkerModel | None, tpot_s: float
) -> float:
    """A mean worker's step with all that decodes or waits to, over the objective."""
    counted = believed(workers)
    if not counted or model is None:
        return 0.0
    sequences = sum(worker.num_running + worker.num_waiting for worker in counted)
    running = sum(worker.num_running for worker in counted)
    context = sum(worker.context_tokens for worker in counted) / max(1, running)
    return min(_MAX_OBSERVED, sequences / (model.timely(context, tpot_s) * len(counted)))


def memory_pressure(workers: tuple[WorkerFigures, ...]) -> float:
    """KV in use over what may be."""
    counted = believed(workers)
    if not counted:
        return 0.0
    return sum(worker.kv_use for worker in counted) / len(counted) / _KV_SHARE


def held_tokens(workers: tuple[WorkerFigures, ...]) -> float:
    """KV that a running sequence takes, shared prefixes counted once; 0 while few run."""
    counted = believed(workers)
    running = sum(worker.num_running for worker in counted)
    if running < _FEW_SEQUENCES:
        return 0.0
    return sum(worker.kv_use * worker.kv_tokens for worker in counted) / running


def lateness(ratio: float | None, alone: float) -> float:
    """ratio: of a latency to its objective. alone: the same of a request that is alone, below 1,
    which no number of workers changes: only what is over it falls with more of them."""
    if ratio is None or not math.isfinite(ratio):
        return 0.0
    crowding = (ratio - alone) / (1 - alone) if alone < 1 else ratio
    return max(0.0, min(_MAX_OBSERVED, ratio, crowding))
