"""Carries out what an operator asks for: each action planned, done, and written down."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from control_plane.actuators.actuator import Actuator, ActuatorConflict, ActuatorRefused
from control_plane.api import bodies
from control_plane.api.audit import AuditLog
from control_plane.api.refusal import Refused, check_highest, check_sizes, refusal_of
from control_plane.api.resize import Step, describe, ratio_steps, sizes_steps
from control_plane.api.shapes import ActionResult, AuditEntry
from control_plane.leadership import Leadership, NotLeader
from control_plane.overrides import Overrides, Pin
from control_plane.planner.config import PlannerConfig
from control_plane.planner.types import Add, Flip, PoolSizes
from wire.cluster import ControlOrder, OrderKind, WorkerStatus
from wire.errors import BatonError
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class DeskParts:
    """What actions act on. order: hands an order to a live worker, or raises BatonError.

    keep: shares what was changed with the other control planes, or raises NotLeader. wall_s:
    seconds since 1970.
    """

    workers: Callable[[], Sequence[WorkerStatus]]
    order: Callable[[str, ControlOrder], Awaitable[None]]
    actuator: Actuator
    overrides: Overrides
    leadership: Leadership
    config: Callable[[], PlannerConfig]
    configure: Callable[[PlannerConfig], None]
    wall_s: Callable[[], float]
    keep: Callable[[], Awaitable[None]]


class _Configured(bodies.ActionBody, frozen=True, kw_only=True):
    """A PUT of the configuration, as the audit log keeps it."""

    config: PlannerConfig


@dataclass(frozen=True, slots=True)
class _Outcome:
    message: str
    steps: tuple[str, ...] = ()


class ActionDesk:
    """Every action leaves one audit entry, also one that was refused or only tried (dry_run).

    on_entry hears of each entry.
    """

    def __init__(
        self,
        parts: DeskParts,
        audit: AuditLog,
        on_entry: Callable[[AuditEntry], None] = lambda entry: None,
    ) -> None:
        self._parts = parts
        self._audit = audit
        self._on_entry = on_entry
        self._actions: Mapping[str, Callable[[Any, str], Awaitable[_Outcome]]] = {
            "ratio": self._ratio,
            "pause": self._pause,
            "resume": self._resume,
            "pin": self._pin,
            "unpin": self._unpin,
            "drain": self._drain,
            "flip": self._flip,
            "add": self._add,
            "remove": self._remove,
        }

    async def act(
        self, action: str, body: bodies.ActionBody, who: str, key: str = ""
    ) -> ActionResult:
        """Raises Refused, having changed nothing, with a message for an operator."""
        number = self._audit.next_id()
        try:
            await self._parts.leadership.confirm()
            outcome = await self._actions[action](body, who)
            await self._parts.keep()
        except (Refused, ActuatorRefused, ActuatorConflict, NotLeader, BatonError) as error:
            refused = refusal_of(error)
            self._write_down(number, action, body, who, key, "refused", refused.message)
            raise refused from error
        word = "dry_run" if body.dry_run else "done"
        self._write_down(number, action, body, who, key, word, outcome.message)
        return ActionResult(
            id=number,
            action=action,
            outcome="dry_run" if body.dry_run else "done",
            message=outcome.message,
            plan=list(outcome.steps),
        )

    async def configure(self, config: PlannerConfig, who: str) -> None:
        """Replaces the planner's configuration. Raises Refused where this process may not act."""
        number = self._audit.next_id()
        body = _Configured(config=config)
        try:
            await self._parts.leadership.confirm()
            self._parts.configure(config)
            await self._parts.keep()
        except NotLeader as error:
            refused = refusal_of(error)
            self._write_down(number, "config", body, who, "", "refused", refused.message)
            raise refused from error
        message = "the planner's configuration is replaced"
        self._write_down(number, "config", body, who, "", "done", message)

    async def _ratio(self, body: bodies.RatioBody, who: str) -> _Outcome:
        if body.prefill + body.decode == 0:
            raise Refused("0:0 is no ratio", code="invalid", field="prefill", limit="0:1 or more")
        workers = self._parts.workers()
        steps = ratio_steps(workers, body.prefill, body.decode)
        sizes = _sizes_after(workers, steps)
        check_sizes(self._parts.config(), sizes)
        return await self._resize(steps, sizes, body, who, until_s=0.0)

    async def _pin(self, body: bodies.PinBody, who: str) -> _Outcome:
        sizes = PoolSizes(body.prefill, body.decode)
        check_sizes(self._parts.config(), sizes)
        until_s = self._parts.wall_s() + body.minutes * 60 if body.minutes else 0.0
        steps = sizes_steps(self._parts.workers(), sizes)
        return await self._resize(steps, sizes, body, who, until_s)

    async def _resize(
        self,
        steps: Sequence[Step],
        sizes: PoolSizes,
        body: bodies.ActionBody,
        who: str,
        until_s: float,
    ) -> _Outcome:
        """What can be refused comes first: flips are not taken back."""
        words = tuple(describe(step) for step in steps)
        if not body.dry_run:
            for step in sorted(steps, key=lambda step: not isinstance(step, Add)):
                await self._take(step)
            self._parts.overrides.set_pin(Pin(sizes, who, self._parts.wall_s(), until_s))
            await self._parts.actuator.recommend(sizes.prefill, sizes.decode)
        return _Outcome(f"pinned at {sizes}: {', '.join(words) or 'nothing has to change'}", words)

    async def _take(self, step: Step) -> None:
        parts = self._parts
        match step:
            case Flip(worker_id, role, _):
                await parts.order(worker_id, ControlOrder(OrderKind.FLIP, role))
            case Add(role, count, hardware, _):
                await parts.actuator.add(role, count, hardware)
            case _:
                await parts.actuator.remove(step.worker_id)

    async def _pause(self, body: bodies.PauseBody, who: str) -> _Outcome:
        if not body.dry_run:
            self._parts.overrides.pause(who)
        return _Outcome("the planner is paused: it decides and does nothing")

    async def _resume(self, body: bodies.ResumeBody, who: str) -> _Outcome:
        if not body.dry_run:
            self._parts.overrides.resume()
        return _Outcome("the planner is not paused")

    async def _unpin(self, body: bodies.UnpinBody, who: str) -> _Outcome:
        if not body.dry_run:
            self._parts.overrides.set_pin(None)
        return _Outcome("the pool sizes are the planner's again")

    async def _drain(self, body: bodies.DrainBody, who: str) -> _Outcome:
        self._worker(body.worker_id)
        if not body.dry_run:
            await self._parts.order(body.worker_id, ControlOrder(OrderKind.DRAIN))
        word = f"drain {body.worker_id}: it takes no new request and ends when it is idle"
        return _Outcome(f"{body.worker_id} drains; what keeps its process starts it again", (word,))

    async def _flip(self, body: bodies.FlipBody, who: str) -> _Outcome:
        worker = self._worker(body.worker_id)
        role = Role(body.role)
        if worker.info.role is role:
            return _Outcome(f"{body.worker_id} is a {role.value} worker already")
        if worker.info.draining or worker.report.draining:
            raise Refused(f"{body.worker_id} drains and takes no other role", field="worker_id")
        step = Flip(body.worker_id, role, "asked for")
        if not body.dry_run:
            await self._take(step)
        return _Outcome(f"{body.worker_id} becomes a {role.value} worker", (describe(step),))

    async def _add(self, body: bodies.AddBody, who: str) -> _Outcome:
        role = Role(body.role)
        config = self._parts.config()
        kinds = [kind.name for kind in config.hardware]
        if body.hardware and body.hardware not in kinds:
            raise Refused(
                f"there is no hardware {body.hardware!r}",
                code="invalid",
                field="hardware",
                limit=", ".join(kinds),
            )
        count = sum(worker.info.role is role for worker in self._parts.workers()) + body.count
        check_highest(config, role, count)
        step = Add(role, body.count, body.hardware, "asked for")
        if not body.dry_run:
            await self._take(step)
        return _Outcome(
            f"{describe(step)}: they serve once they have registered", (describe(step),)
        )

    async def _remove(self, body: bodies.RemoveBody, who: str) -> _Outcome:
        if not body.dry_run:
            await self._parts.actuator.remove(body.worker_id)
        else:
            self._worker(body.worker_id)
        word = f"drain and end {body.worker_id}"
        return _Outcome(f"{body.worker_id} drains, ends, and is not started again", (word,))

    def _worker(self, worker_id: str) -> WorkerStatus:
        workers = self._parts.workers()
        for worker in workers:
            if worker.info.worker_id == worker_id:
                return worker
        names = ", ".join(worker.info.worker_id for worker in workers[:20]) or "none"
        raise Refused(
            f"no worker {worker_id!r} is live; there are: {names}",
            code="not_found",
            field="worker_id",
        )

    def _write_down(
        self,
        number: int,
        action: str,
        body: bodies.ActionBody,
        who: str,
        key: str,
        outcome: str,
        message: str,
    ) -> None:
        entry = AuditEntry(
            id=number,
            at_s=self._parts.wall_s(),
            who=who,
            action=action,
            body=msgspec.to_builtins(body),
            outcome=outcome,
            message=message,
            dry_run=body.dry_run,
            idempotency_key=key,
        )
        self._audit.append(entry)
        self._on_entry(entry)


def _sizes_after(workers: Sequence[WorkerStatus], steps: Sequence[Step]) -> PoolSizes:
    """The pools once these flips are through; draining workers do not count."""
    roles = {
        worker.info.worker_id: worker.info.role
        for worker in workers
        if not worker.info.draining and not worker.report.draining
    }
    roles |= {step.worker_id: step.to_role for step in steps if isinstance(step, Flip)}
    prefill = sum(role is Role.PREFILL for role in roles.values())
    return PoolSizes(prefill, len(roles) - prefill)
