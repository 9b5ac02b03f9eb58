"""Which workers pair with which: groups of equal fingerprint, and why some stand alone."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple

from control_plane.api.shapes import GroupView
from wire.cluster import Fingerprint, WorkerInfo, pair_refusal
from wire.messages import Role


def group_of(fingerprint: Fingerprint) -> str:
    """A short name, equal for equal fingerprints."""
    content = "\x1f".join(str(part) for part in astuple(fingerprint))
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def group_views(workers: Sequence[WorkerInfo]) -> list[GroupView]:
    """Every group that has workers, the largest first."""
    members: dict[Fingerprint, list[WorkerInfo]] = {}
    for worker in workers:
        members.setdefault(worker.fingerprint, []).append(worker)
    ordered = sorted(members.items(), key=lambda item: (-len(item[1]), group_of(item[0])))
    roles = {fingerprint: {worker.role for worker in own} for fingerprint, own in ordered}
    return [
        _view(fingerprint, own, {other: roles[other] for other in roles if other != fingerprint})
        for fingerprint, own in ordered
    ]


def _view(
    fingerprint: Fingerprint,
    workers: Sequence[WorkerInfo],
    others: Mapping[Fingerprint, set[Role]],
) -> GroupView:
    prefill = sum(worker.role is Role.PREFILL for worker in workers)
    decode = len(workers) - prefill
    return GroupView(
        group=group_of(fingerprint),
        model=fingerprint.model,
        revision=fingerprint.revision,
        dtype=fingerprint.dtype,
        kv_layout=fingerprint.kv_layout,
        prefill=prefill,
        decode=decode,
        note=""
        if prefill and decode
        else _note(fingerprint, Role.PREFILL if prefill else Role.DECODE, others),
    )


def _note(fingerprint: Fingerprint, role: Role, others: Mapping[Fingerprint, set[Role]]) -> str:
    """Why workers of one role only find nobody of the other; empty if they do, or if all of the
    cluster is of one role."""
    lacking = Role.DECODE if role is Role.PREFILL else Role.PREFILL
    candidates = [other for other, roles in others.items() if lacking in roles]
    refusals = {other: _refusal(fingerprint, other, role) for other in candidates}
    if not refusals or not all(refusals.values()):
        return ""
    why = "; ".join(f"group {group_of(other)}: {text}" for other, text in refusals.items())
    return (
        f"its {role.value} workers find no {lacking.value} worker that they pair with, and run "
        f"both phases alone ({why})"
    )


def _refusal(own: Fingerprint, other: Fingerprint, role: Role) -> str:
    """KV goes from prefill to decode."""
    return pair_refusal(own, other) if role is Role.PREFILL else pair_refusal(other, own)
