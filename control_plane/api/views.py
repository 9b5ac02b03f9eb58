"""From the cluster's facts to what the operator API shows. Pure."""

from typing import cast

from control_plane.api.facts import ClusterFacts, state_of
from control_plane.api.groups import group_of, group_views
from control_plane.api.shapes import (
    GroupView,
    LeaderView,
    PairView,
    PinView,
    PlannerView,
    PoolView,
    ProcessView,
    RoleName,
    StatusView,
    WorkerState,
    WorkerView,
)
from wire.cluster import WorkerStatus
from wire.messages import Role


def status_view(facts: ClusterFacts) -> StatusView:
    """Everything at once; lists are in a fixed order, so that two views can be compared."""
    restarts = {process.name: process.num_restarts for process in facts.processes}
    groups = group_views([worker.info for worker in facts.workers])
    fingerprints = {worker.info.fingerprint for worker in facts.workers}
    names = {fingerprint: group_of(fingerprint) for fingerprint in fingerprints}
    return StatusView(
        version=facts.version,
        at_s=facts.at_s,
        model=", ".join(sorted({group.model for group in groups})),
        pools=[_pool(role, facts) for role in Role],
        workers=[
            _worker(
                worker,
                state_of(worker, facts.beat_s),
                names[worker.info.fingerprint],
                restarts.get(worker.info.worker_id, -1),
            )
            for worker in facts.workers
        ],
        pairs=[pair for worker in facts.workers for pair in _pairs(worker)],
        groups=groups,
        processes=_processes(facts),
        planner=_planner(facts),
        leader=_leader(facts),
        actuator=facts.actuator,
        state=facts.state,
        notes=_notes(facts, groups),
    )


def _pool(role: Role, facts: ClusterFacts) -> PoolView:
    workers = facts.of(role)
    platform = facts.platform_of(role)
    states = [state_of(worker, facts.beat_s) for worker in workers]
    num_blocks = sum(worker.report.num_blocks for worker in workers)
    num_free = sum(worker.report.num_free_blocks for worker in workers)
    actual = len(workers) - states.count("draining")
    return PoolView(
        role=role_name(role),
        actual=actual,
        desired=_desired(role, facts, platform.wanted if platform else actual),
        recommended=facts.decision.decision.desired.of(role) if facts.decision else -1,
        draining=states.count("draining"),
        flipping=states.count("flipping"),
        num_running=sum(worker.report.num_running for worker in workers),
        num_waiting=sum(worker.report.num_waiting for worker in workers),
        waiting_tokens=sum(worker.report.waiting_tokens for worker in workers),
        kv_use=(num_blocks - num_free) / num_blocks if num_blocks else 0.0,
    )


def _desired(role: Role, facts: ClusterFacts, wanted: int) -> int:
    return facts.pin.sizes.of(role) if facts.pin else wanted


def _worker(worker: WorkerStatus, state: str, group: str, num_restarts: int) -> WorkerView:
    info, report = worker.info, worker.report
    used = report.num_blocks - report.num_free_blocks
    return WorkerView(
        worker_id=info.worker_id,
        epoch=info.epoch,
        role=role_name(info.role),
        state=cast(WorkerState, state),
        address=info.address,
        group=group,
        flipping_to=info.role.value if state == "flipping" else "",
        pid=info.pid,
        beat_age_s=round(worker.beat_age_s, 3),
        num_running=report.num_running,
        num_waiting=report.num_waiting,
        waiting_tokens=report.waiting_tokens,
        context_tokens=report.context_tokens,
        num_blocks=report.num_blocks,
        num_free_blocks=report.num_free_blocks,
        kv_use=used / report.num_blocks if report.num_blocks else 0.0,
        num_exports=report.num_exports,
        num_imports=report.num_imports,
        num_steps=report.num_steps,
        step_ms=report.step_s * 1e3,
        max_model_len=info.max_model_len,
        num_restarts=num_restarts,
        metrics_url=info.metrics_url,
        role_epoch=info.role_epoch,
    )


def _pairs(worker: WorkerStatus) -> list[PairView]:
    return [
        PairView(
            source=pair.source,
            target=worker.info.worker_id,
            transport=pair.transport,
            latency_ms=pair.latency_s * 1e3,
            bandwidth_bytes_s=pair.bandwidth_bytes_s,
            alarms=list(pair.alarms),
            refusal=pair.refusal,
            wanted_transport=pair.wanted_transport,
        )
        for pair in worker.info.pairs
    ]


def _processes(facts: ClusterFacts) -> list[ProcessView]:
    return [
        ProcessView(
            name=process.name,
            kind=process.kind,
            pid=process.pid,
            state=process.state,
            num_restarts=process.num_restarts,
            uptime_s=process.uptime_s,
            detail=process.detail,
        )
        for process in facts.processes
    ]


def _planner(facts: ClusterFacts) -> PlannerView:
    decision = facts.decision
    return PlannerView(
        mode=facts.stance.value,
        paused=bool(facts.paused_by),
        paused_by=facts.paused_by,
        serving=decision.decision.mode.value if decision else "",
        following=facts.serving.mode.value,
        mode_epoch=facts.serving.epoch,
        last_decision=decision.number if decision else 0,
        alarms=list(decision.decision.alarms) if decision else [],
        pinned=PinView(
            prefill=facts.pin.sizes.prefill,
            decode=facts.pin.sizes.decode,
            who=facts.pin.who,
            since_s=facts.pin.since_s,
            until_s=facts.pin.until_s,
        )
        if facts.pin
        else None,
    )


def _leader(facts: ClusterFacts) -> LeaderView:
    term = facts.term
    return LeaderView(
        backend=facts.election,
        holder=term.holder,
        is_me=term.is_me,
        token=term.token,
        renewed_age_s=term.renewed_age_s,
    )


def _notes(facts: ClusterFacts, groups: list[GroupView]) -> list[str]:
    """What the platform gave up, what does not pair, and what the parts themselves say."""
    failed = [f"{pool.role.value}: {pool.detail}" for pool in facts.platform if pool.failed]
    apart = [f"group {group.group}: {group.note}" for group in groups if group.note]
    return [*failed, *apart, *facts.notes]


def role_name(role: Role) -> RoleName:
    return "prefill" if role is Role.PREFILL else "decode"
