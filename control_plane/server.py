"""A control plane that listens: registry, gRPC service, operator API, health service, metrics."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from control_plane.actuators.actuator import Actuator
from control_plane.actuators.advisory import AdvisoryActuator
from control_plane.actuators.fenced import FencedActuator
from control_plane.api.access import Access
from control_plane.api.audit import AuditLog
from control_plane.api.server import OperatorApi
from control_plane.api.shapes import DecisionView
from control_plane.api.source import OperatorParts
from control_plane.autopilot import Autopilot, AutopilotParts, ModeSimulator
from control_plane.config import ControlConfig
from control_plane.leadership import Leadership, SoleLeadership
from control_plane.lessons import Lessons
from control_plane.observe.observer import Observer, Seen
from control_plane.overrides import Overrides
from control_plane.pace import Pace
from control_plane.planner_settings import build_autopilot, traffic_source
from control_plane.planning import Planning, Stance, Unplanned
from control_plane.progress import ProgressTeller
from control_plane.registry import Registry
from control_plane.service import ControlPlane
from control_plane.sharing import SharedParts, SharedState
from control_plane.state.journal import Journal
from control_plane.state.memory_store import MemoryStore
from control_plane.state.store import StateStore
from runtime.clock import Clock, wall_time_s
from runtime.health import Health
from runtime.metrics import CONTROL_METRICS, Metrics
from runtime.metrics_server import MetricsServer
from wire.cluster import ProcessStatus
from wire.messages import Role
from wire.rpc import add_control_service, bind, build_server

_STOP_GRACE_S = 0.2
_KEPT_DECISIONS = 500


class ControlServer:
    """Whoever starts it stops it. One registry in memory: a restart learns it from the beats.

    actuator None: workers are somebody else's, and what is wanted is only advised. planning None:
    the configuration says whether an autopilot runs. store None: state in memory. Raises
    SettingsError for what it cannot use.
    """

    def __init__(
        self,
        config: ControlConfig,
        clock: Clock,
        processes: Callable[[], tuple[ProcessStatus, ...]] = tuple,
        *,
        actuator: Actuator | None = None,
        actuator_name: str = "advisory",
        planning: Planning | None = None,
        modes: ModeSimulator | None = None,
        leadership: Leadership | None = None,
        store: StateStore | None = None,
    ) -> None:
        self.metrics = Metrics(CONTROL_METRICS)
        self.leadership = leadership or SoleLeadership()
        self.registry = Registry(clock, Pace(timeout_s=config.beat_timeout_s))
        self.plane = ControlPlane(
            self.registry,
            clock,
            self.metrics,
            settle_s=config.settle_s,
            processes=processes,
            leadership=self.leadership,
            steers=planning.stance() is Stance.ACT if planning else config.plan == "act",
        )
        self.overrides, self.lessons = Overrides(), Lessons()
        self.actuator = FencedActuator(
            actuator or AdvisoryActuator(self.metrics, self.serving), self.leadership
        )
        self.port = 0
        self._config = config
        self._autopilot = None if planning else self._build_autopilot(clock, modes)
        self._planning = planning or self._autopilot or Unplanned()
        self._audit = AuditLog(Path(config.audit_file) if config.audit_file else None)
        self._decided: Journal[DecisionView] = Journal(_KEPT_DECISIONS)
        self.shared = SharedState(
            store or MemoryStore(), self._shared_parts(), clock, config.state_ttl_s
        )
        self._progress = ProgressTeller(self.registry, self.actuator, self.leadership)
        self._tasks: list[asyncio.Task[None]] = []
        self._api = OperatorApi(
            self._operator_parts(processes, actuator_name),
            clock,
            self.metrics,
            Access(config.operator_token, config.protect_reads),
        )
        self._metrics_server: MetricsServer | None = None
        self._health = Health(clock)

    @property
    def http_port(self) -> int:
        """Of the operator API; 0 where there is none."""
        return self._api.port

    def serving(self) -> Mapping[str, Role]:
        """The live workers' roles by id."""
        return {worker.worker_id: worker.role for worker in self.registry.snapshot.workers}

    async def start(self) -> None:
        """Listens. Raises OSError, naming the port, when one is taken."""
        config = self._config
        self._server = build_server(config.cluster_token)
        add_control_service(self._server, self.plane)
        servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        self.port = bind(self._server, config.host, config.port)
        if config.metrics_port:
            self._metrics_server = MetricsServer(
                config.host, config.metrics_port, self.metrics.exposition, self._health
            )
            self._metrics_server.start()
            self._begin(self._health.turn(), "health")
        await self._server.start()
        await self.leadership.start()
        await self.shared.start()
        if config.operator_port >= 0:
            await self._api.start(config.host, config.operator_port)
        self._begin(self.plane.watch_expiry(), "registry-expiry")
        self._begin(self._progress.run(), "progress")
        if self._autopilot is not None:
            self._begin(self._autopilot.run(), "autopilot")
        self._health.ready()

    async def stop(self) -> None:
        """Ends every stream after a short grace and frees the ports."""
        self._health.ready("stopping")
        for task in reversed(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._api.stop()
        await self._server.stop(_STOP_GRACE_S)
        await self.shared.stop()
        await self.leadership.stop()
        if self._metrics_server is not None:
            self._metrics_server.stop()
        self.registry.check_integrity()

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    def _shared_parts(self) -> SharedParts:
        return SharedParts(
            registry=self.registry,
            overrides=self.overrides,
            lessons=self.lessons,
            leadership=self.leadership,
            audit=self._audit,
            decided=self._decided,
            planning=self._planning,
            wall_s=wall_time_s,
        )

    def _operator_parts(
        self, processes: Callable[[], tuple[ProcessStatus, ...]], actuator_name: str
    ) -> OperatorParts:
        return OperatorParts(
            registry=self.registry,
            processes=processes,
            actuator=self.actuator,
            planning=self._planning,
            overrides=self.overrides,
            leadership=self.leadership,
            order=self.plane.command,
            wall_s=wall_time_s,
            audit=self._audit,
            decided=self._decided,
            keep=self.shared.keep,
            actuator_name=actuator_name,
            state_name=self.shared.name,
            notes=self._notes,
        )

    def _notes(self) -> tuple[str, ...]:
        """What an operator should know of the election and the shared state."""
        term = self.leadership.term()
        if term.is_me:
            return self.shared.notes()
        backend = self.leadership.backend
        nobody = f"nobody leads yet, or the store of the election ({backend}) is silent"
        leader = f"{term.other} leads, and workers beat there" if term.other else nobody
        return (leader, *self.shared.notes())

    def _build_autopilot(self, clock: Clock, modes: ModeSimulator | None) -> Autopilot | None:
        if self._config.plan == "off":
            return None

        def parts(observer: Observer) -> AutopilotParts:
            return AutopilotParts(
                observer=observer,
                actuator=self.actuator,
                order=self.plane.command,
                overrides=self.overrides,
                clock=clock,
                wall_s=wall_time_s,
                metrics=self.metrics,
                may_act=lambda: self.shared.may_act,
                leads_elsewhere=lambda: bool(self.leadership.term().other),
                next_number=lambda: self.shared.next_number(),
                serving=lambda: self.registry.serving,
                tell_mode=self.registry.tell_mode,
                lessons=self.lessons,
            )

        source = traffic_source(self._config, clock)
        seen = Seen(self.registry.status, self.actuator.status, source)
        return build_autopilot(self._config, parts, seen, clock, wall_time_s, modes)
