"""What an attempt's legs count as on their workers until reports count them."""

from router.policies.policy import RequestFacts
from router.session import WorkerSession

Leg = tuple[WorkerSession, int]  # where, and its leg_id


def reserve(facts: RequestFacts, pull_tokens: int, prefill: Leg | None, decode: Leg) -> None:
    """prefill: None where decode computes the prompt. pull_tokens: of it, that come from a peer."""
    most = max(1, facts.num_tokens - pull_tokens)  # that is left to compute
    worker, leg_id = decode
    rest = facts.uncached_tokens(worker.info.worker_id)
    worker.reserve_leg(
        leg_id,
        compute_tokens=0 if prefill else min(facts.effort_tokens(worker.info.worker_id), most),
        new_tokens=rest,
        num_tokens=facts.num_tokens,
    )
    if prefill is not None:
        worker, leg_id = prefill
        worker_id = worker.info.worker_id
        effort, rest = facts.effort_tokens(worker_id), facts.uncached_tokens(worker_id)
        worker.reserve_leg(leg_id, compute_tokens=min(effort, most), new_tokens=rest)
