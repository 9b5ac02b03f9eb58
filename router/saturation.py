"""How full the cluster is, as one number that admission can act on. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from router.candidates import Candidate, ClusterView
from router.outlook import Outlook

_READY = 0.9  # of the token objective: up to here a decode worker has time for prompts


@dataclass(frozen=True, slots=True)
class Saturation:
    """level: the least loaded worker's load as a share of what the objectives allow, 1 is full.

    is_full: no worker would begin another prompt within the time that may be spent waiting there.
    """

    level: float = 0.0
    is_full: bool = False


def saturation(
    view: ClusterView, ttft_slo_s: float, tpot_slo_s: float, hold_s: float
) -> Saturation:
    """The largest of three shares, each of the least loaded worker of its pool.

    prefill: what waits before a new prompt, of ttft_slo_s. decode: what the batch adds to a token's
    time, of what tpot_slo_s leaves for that. KV: blocks in use. Workers whose predictors are cold
    count by their blocks alone. hold_s: as is_full takes it.
    """
    sources, seats = view.prefill or view.decode, view.decode or view.prefill
    if not seats:
        return Saturation()
    kv = min(map(_kv_share, seats))
    waits_s = [0.0 if found.outlook is None else found.outlook.queue_s for found in sources]
    batches = [_batch_share(found.outlook, tpot_slo_s) for found in seats]
    level = max(kv, min(waits_s) / ttft_slo_s, min(batches))
    return Saturation(level, _is_full(sources, seats, tpot_slo_s, hold_s))


def _is_full(
    sources: Sequence[Candidate], seats: Sequence[Candidate], tpot_slo_s: float, hold_s: float
) -> bool:
    if any(found.outlook is None or found.outlook.queue_s <= hold_s for found in sources):
        return False
    return not any(
        found.outlook is None
        or (found.outlook.queue_s <= hold_s and found.outlook.tpot_s <= _READY * tpot_slo_s)
        for found in seats
    )


def _kv_share(worker: Candidate) -> float:
    return 1 - worker.num_free_blocks / worker.num_blocks if worker.num_blocks else 0.0


def _batch_share(outlook: Outlook | None, tpot_slo_s: float) -> float:
    """0 where an empty worker misses the objective already: no load is to blame."""
    if outlook is None:
        return 0.0
    empty_s = outlook.costs.itl_s(1, 0)
    return (
        max(0.0, outlook.tpot_s - empty_s) / (tpot_slo_s - empty_s) if empty_s < tpot_slo_s else 0
    )
