"""Reads the parts of a control plane, and turns what they say into the API's shapes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from control_plane.actuators.actuator import Actuator
from control_plane.api.audit import AuditLog
from control_plane.api.decisions import decision_view, inputs_of, reasons_of, steps_of
from control_plane.api.facts import ClusterFacts
from control_plane.api.shapes import DecisionView, StatusView, WhatIfAnswer
from control_plane.api.views import status_view
from control_plane.leadership import Leadership
from control_plane.overrides import Overrides
from control_plane.planning import Planning, SupposedLoad
from control_plane.registry import Registry
from control_plane.state.journal import Journal
from wire.cluster import ControlOrder, ProcessStatus


@dataclass(frozen=True, slots=True)
class OperatorParts:
    """What one control plane consists of, as far as operators see it.

    actuator_name, state_name: as the settings call them. notes: what the parts want told.
    wall_s: seconds since 1970. decided: decisions of other control planes too. keep: shares what
    an operator has changed, or raises NotLeader.
    """

    registry: Registry
    processes: Callable[[], tuple[ProcessStatus, ...]]
    actuator: Actuator
    planning: Planning
    overrides: Overrides
    leadership: Leadership
    order: Callable[[str, ControlOrder], Awaitable[None]]
    wall_s: Callable[[], float]
    audit: AuditLog
    decided: Journal[DecisionView]
    keep: Callable[[], Awaitable[None]]
    actuator_name: str = "none"
    state_name: str = "memory"
    notes: Callable[[], tuple[str, ...]] = tuple


class OperatorSource:
    """Answers every read of the API."""

    def __init__(self, parts: OperatorParts) -> None:
        self._parts = parts

    async def status(self) -> StatusView:
        return status_view(await self.facts())

    def decisions(self, limit: int) -> list[DecisionView]:
        """The newest first."""
        own = self._parts.planning.decisions()[::-1][:limit]
        views = [decision_view(recorded) for recorded in own]
        known = {(view.at_s, view.id) for view in views}
        views += [v for v in self._parts.decided.newest(limit) if (v.at_s, v.id) not in known]
        return sorted(views, key=lambda view: (view.at_s, view.id), reverse=True)[:limit]

    def what_if(self, load: SupposedLoad) -> WhatIfAnswer:
        """Raises BatonError UNAVAILABLE where no planner runs."""
        decision = self._parts.planning.what_if(load)
        return WhatIfAnswer(
            serving=decision.mode.value,
            prefill=decision.desired.prefill,
            decode=decision.desired.decode,
            steps=steps_of(decision),
            reasons=reasons_of(decision),
            inputs=inputs_of(decision),
        )

    async def facts(self) -> ClusterFacts:
        parts = self._parts
        decisions = parts.planning.decisions()
        wall_s = parts.wall_s()
        return ClusterFacts(
            version=parts.registry.snapshot.version,
            at_s=wall_s,
            workers=parts.registry.status(),
            processes=parts.processes(),
            platform=await parts.actuator.status(),
            stance=parts.planning.stance(),
            paused_by=parts.overrides.paused_by,
            pin=parts.overrides.pin_at(wall_s),
            decision=decisions[-1] if decisions else None,
            term=parts.leadership.term(),
            election=parts.leadership.backend,
            actuator=parts.actuator_name,
            state=parts.state_name,
            notes=parts.notes(),
            beat_s=parts.registry.interval_s,
            serving=parts.registry.serving,
        )
