"""How an operator's wish becomes steps: who flips, how many come, who leaves. Pure."""

from collections import Counter
from collections.abc import Sequence

from control_plane.planner.groups import allot, leaving_in_ratio
from control_plane.planner.types import Add, Flip, PoolSizes, Remove
from wire.cluster import WorkerStatus
from wire.messages import Role

Step = Flip | Add | Remove


def split(total: int, prefill: int, decode: int) -> PoolSizes:
    """total workers in the proportion prefill:decode, each side that is wanted at least one.

    prefill + decode is at least 1.
    """
    share = round(total * prefill / (prefill + decode))
    lowest = min(total, 1 if prefill else 0)
    highest = max(lowest, total - (1 if decode else 0))
    share = min(max(share, lowest), highest)
    return PoolSizes(share, total - share)


def ratio_steps(workers: Sequence[WorkerStatus], prefill: int, decode: int) -> list[Step]:
    """Flips that split every fingerprint group alike: a roll-out keeps both versions in ratio."""
    steps: list[Step] = []
    for group in _groups(workers):
        wanted = split(len(group), prefill, decode)
        steps += _flips(group, wanted)
    return steps


def sizes_steps(workers: Sequence[WorkerStatus], wanted: PoolSizes) -> list[Step]:
    """Flips first, each fingerprint group in ratio; what is still missing is added, what is too
    much is removed."""
    serving = _serving(workers)
    groups = _groups(workers)
    change = len(_flips(serving, wanted)) * (1 if _lacks_prefill(serving, wanted) else -1)
    prefill = sum(w.info.role is Role.PREFILL for w in serving) + change
    allotted = allot({number: len(group) for number, group in enumerate(groups)}, prefill)
    flips = [
        flip
        for number, group in enumerate(groups)
        for flip in _flips(group, PoolSizes(allotted[number], len(group) - allotted[number]))
    ]
    flipped = {step.worker_id for step in flips}
    steps: list[Step] = list(flips)
    for role in Role:
        other = Role.DECODE if role is Role.PREFILL else Role.PREFILL
        own = [w for w in serving if w.info.role is role and w.info.worker_id not in flipped]
        num_come = sum(w.info.role is other for w in serving if w.info.worker_id in flipped)
        missing = wanted.of(role) - len(own) - num_come
        if missing > 0:
            steps.append(Add(role, missing, "", f"{missing} more for {wanted}"))
        sizes = Counter(worker.info.fingerprint for worker in serving)
        leaving = leaving_in_ratio(own, sizes, lambda worker: worker.info.fingerprint, _load)
        for worker in leaving[: max(0, -missing)]:
            reason = f"{wanted} needs it no longer; it has the least to do"
            steps.append(Remove(worker.info.worker_id, reason))
    return steps


def _lacks_prefill(workers: Sequence[WorkerStatus], wanted: PoolSizes) -> bool:
    return sum(worker.info.role is Role.PREFILL for worker in workers) < wanted.prefill


def _flips(workers: Sequence[WorkerStatus], wanted: PoolSizes) -> list[Flip]:
    """Of the pool that has too many to the one that has too few, those with the least to do."""
    flips: list[Flip] = []
    for donor, to in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
        own = sorted((w for w in workers if w.info.role is donor), key=_load)
        num_to = sum(w.info.role is to for w in workers)
        count = min(len(own) - wanted.of(donor), wanted.of(to) - num_to)
        reason = f"{wanted} wants it; it has the least to do"
        flips += [Flip(w.info.worker_id, to, reason) for w in own[: max(0, count)]]
    return flips


def _groups(workers: Sequence[WorkerStatus]) -> list[list[WorkerStatus]]:
    groups: dict[object, list[WorkerStatus]] = {}
    for worker in _serving(workers):
        groups.setdefault(worker.info.fingerprint, []).append(worker)
    return list(groups.values())


def _serving(workers: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    return [w for w in workers if not w.info.draining and not w.report.draining]


def _load(worker: WorkerStatus) -> tuple[int, int, str]:
    report = worker.report
    return (report.num_running + report.num_waiting, report.context_tokens, worker.info.worker_id)


def describe(step: Step) -> str:
    """One step in words, for an operator."""
    match step:
        case Flip(worker_id, role, _):
            return f"flip {worker_id} to {role.value}"
        case Add(role, count, hardware, _):
            kind = f" of {hardware}" if hardware else ""
            return f"add {count} {role.value} worker{'s' if count > 1 else ''}{kind}"
        case Remove(worker_id, _):
            return f"drain and end {worker_id}"
