"""The operator API as it runs: its listener, its samples, and the events once a second."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import uvicorn

from control_plane.api.access import Access
from control_plane.api.app import ApiParts, build_app
from control_plane.api.delta import flips_between, status_delta
from control_plane.api.desk import ActionDesk, DeskParts
from control_plane.api.events import EventHub
from control_plane.api.history import STEP_S, History
from control_plane.api.samples import Sampler
from control_plane.api.shapes import AuditEntry, StatusView
from control_plane.api.source import OperatorParts, OperatorSource
from runtime.clock import Clock
from runtime.http_server import HttpServer, listen
from runtime.log import get_logger
from runtime.metrics import Metrics

_WHAT = "the operator API"
_EVENT_PERIOD_S = 1.0
_STOP_S = 1
_KEEP_ALIVE_S = 75
_log = get_logger("control_plane")


class OperatorApi:
    """One listener for operators. Whoever starts it stops it."""

    def __init__(
        self,
        parts: OperatorParts,
        clock: Clock,
        metrics: Metrics,
        access: Access,
    ) -> None:
        self.port = 0
        self._clock = clock
        self._metrics = metrics
        self._source = OperatorSource(parts)
        self._events = EventHub()
        self._history = History()
        self._sampler = Sampler()
        self._planning = parts.planning
        self._leadership = parts.leadership
        self._seen_decision = 0
        self._view: StatusView | None = None
        desk_parts = DeskParts(
            workers=parts.registry.status,
            order=parts.order,
            actuator=parts.actuator,
            overrides=parts.overrides,
            leadership=parts.leadership,
            config=parts.planning.config,
            configure=parts.planning.configure,
            wall_s=parts.wall_s,
            keep=parts.keep,
        )
        api = ApiParts(
            source=self._source,
            desk=ActionDesk(desk_parts, parts.audit, self._acted),
            audit=parts.audit,
            history=self._history,
            events=self._events,
            first_view=self._first_view,
            planning=parts.planning,
            access=access,
            wall_s=parts.wall_s,
            leader_elsewhere=self._leader_elsewhere,
        )
        self._app = build_app(api, version("baton-serve"))
        self._server: HttpServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, host: str, port: int) -> None:
        """Takes connections when it returns; port 0 picks a free one. Raises OSError naming the
        port when it is taken."""
        listener = listen(host, port, _WHAT)
        self.port = int(listener.getsockname()[1])
        config = uvicorn.Config(
            self._app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_S,
        )
        self._server = HttpServer(config, _WHAT)
        self._tasks = [
            asyncio.create_task(self._server.serve(sockets=[listener]), name="operator-api"),
            asyncio.create_task(_every(_EVENT_PERIOD_S, self._tell), name="operator-events"),
            asyncio.create_task(_every(STEP_S, self._remember), name="operator-history"),
        ]
        try:
            await self._server.listens(self._tasks[0])
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends every stream and frees the port."""
        if self._server is None:
            return
        self._events.close()
        self._server.should_exit = True
        serving, *others = self._tasks
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.wait({serving})  # what it may have failed by, `start` has told

    async def _first_view(self) -> StatusView:
        """What a listener starts from; the rounds compare with what the first one saw."""
        view = await self._source.status()
        self._view = self._view or view
        return view

    async def _tell(self) -> None:
        """One round of events; without a listener there is nobody to compare for. Where another
        control plane leads, listeners are cut: they connect again and are sent there."""
        if self._leader_elsewhere():
            self._events.close()
        for decision in self._source.decisions(limit=10)[::-1]:
            if decision.id > self._seen_decision:
                self._seen_decision = decision.id
                self._events.publish("decision", decision)
        if not self._events.is_heard:
            self._view = None
            return
        view = await self._source.status()
        for flip in flips_between(self._view, view):
            self._events.publish("flip", flip)
        self._events.publish("status", status_delta(self._view, view))
        self._view = view

    def _leader_elsewhere(self) -> str:
        return self._leadership.term().other

    async def _remember(self) -> None:
        facts = await self._source.facts()
        self._history.add(facts.at_s, self._sampler.sample(facts, self._clock.now()))

    def _acted(self, entry: AuditEntry) -> None:
        labels = {"action": entry.action, "outcome": entry.outcome}
        self._metrics.counter("baton_control_actions_total", **labels).inc()
        self._events.publish("action", entry)


async def _every(period_s: float, step: Callable[[], Awaitable[None]]) -> None:
    """Until cancelled; a step that fails is logged, and the next one comes."""
    while True:
        try:
            await step()
        except Exception:  # a task's edge: the next round comes
            _log.exception("a round of the operator API failed", round=step.__name__)
        await asyncio.sleep(period_s)
