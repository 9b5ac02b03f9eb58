"""One worker process: builds its parts, serves until told to stop, drains, ends."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from engine.errors import ModelError
from engine.memory_plan import MemoryPlanError
from engine.parallel.leading_model import RankLostError
from runtime import lifecycle, log
from runtime.clock import SystemClock, wall_time_s
from runtime.health import Health
from runtime.metrics import WORKER_METRICS, Metrics
from runtime.metrics_server import MetricsServer
from runtime.tracing import open_tracer
from wire import rpc
from wire.cluster import ControlOrder, OrderKind, PairStatus, WorkerBeat, WorkerInfo
from wire.steps_rpc import add_steps_service
from worker.build import WorkerParts, build
from worker.commands import Drain, Flip, Migrate
from worker.config import WorkerConfig
from worker.engine_thread import EngineThread
from worker.metrics import WorkerMeter
from worker.outbox import Outbox
from worker.pairs import PairWatch
from worker.registration import Registration
from worker.service import SessionHub
from worker.spans import LegSpans

_DRAIN_POLL_S = 0.05
_SWITCH_INTERVAL_S = 0.0005  # what the event loop waits at most for the engine's thread
_STOP_TIMEOUT_S = 10.0


def run(config: WorkerConfig) -> int:
    """The whole life of a worker; 0 after a drain, 1 when it could not start or lost a process
    that computes its model."""
    if config.parent_pid:
        lifecycle.die_with_parent(config.parent_pid)
    log.configure(config.worker_id or config.role.value, level=config.log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        with build(config) as parts:
            asyncio.run(_serve(config, parts))
            if parts.rank_lost is not None and parts.rank_lost.done():
                raise RankLostError(parts.rank_lost.result())
    except (ModelError, MemoryPlanError, OSError, ValueError, RankLostError) as error:
        print(f"baton {config.role.value}: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: WorkerConfig, parts: WorkerParts) -> None:
    stop = lifecycle.stop_event()
    _stop_when_lost(parts.rank_lost, stop)
    server = rpc.build_server(config.cluster_token)
    port = rpc.bind(server, config.host, config.port)
    tracer = open_tracer(config.otlp_endpoint, f"baton-{config.role.value}", parts.worker_id)
    spans = None if tracer is None else LegSpans(tracer, parts.worker_id, wall_time_s)
    hub = SessionHub(parts.inbox.post, SystemClock(), spans)
    rpc.add_worker_service(server, hub)
    metrics, health = Metrics(WORKER_METRICS), Health(SystemClock())
    with _exposed(config, metrics, health), _running_engine(parts, hub, metrics) as engine_thread:
        add_steps_service(server, engine_thread.recent_steps)
        await server.start()
        beats = _Beats(config, parts, engine_thread, port)
        registration = Registration(
            config.control_address,
            config.cluster_token,
            beats.next_beat,
            lambda order: _obey(order, stop, parts),
        )
        hub.on_news = registration.beat_now
        pairs = PairWatch(
            parts.worker_id,
            parts.fingerprint,
            parts.preflight,
            SystemClock(),
            registration.beat_now,
        )
        beats.pairs = lambda: pairs.pairs
        registered = asyncio.create_task(registration.run())
        probing = asyncio.create_task(pairs.run(config.control_address, config.cluster_token))
        reports = asyncio.create_task(hub.send_reports(lambda: engine_thread.report))
        turning = asyncio.create_task(health.turn())
        health.ready()
        log.get_logger("worker").info("serving", address=beats.address)
        await stop.wait()
        health.ready("draining")
        probing.cancel()
        parts.inbox.post(Drain())
        registration.beat_now()
        await _drained(config, engine_thread)
        await registration.leave(registered)
        reports.cancel()
        turning.cancel()
        hub.close()
        await server.stop(1.0)
        if tracer is not None:
            await asyncio.to_thread(tracer.close)


def _stop_when_lost(lost: Future[str] | None, stop: asyncio.Event) -> None:
    """A model that lacks a rank computes nothing more: its requests fail, and others take them."""
    if lost is None:
        return
    loop = asyncio.get_running_loop()

    def tell(ended: Future[str]) -> None:
        log.get_logger("worker").error("rank_lost", reason=ended.result())
        with contextlib.suppress(RuntimeError):  # the loop has ended: the worker is ending anyway
            loop.call_soon_threadsafe(stop.set)

    lost.add_done_callback(tell)


def _obey(order: ControlOrder, stop: asyncio.Event, parts: WorkerParts) -> None:
    if order.kind is not OrderKind.ACK:
        kind, role = order.kind.value, order.role and order.role.value
        log.get_logger("worker").info("ordered", kind=kind, role=role, count=order.count)
    if order.kind is OrderKind.DRAIN:
        stop.set()
    elif order.kind is OrderKind.FLIP and order.role is not None:
        parts.inbox.post(Flip(order.role))
    elif order.kind is OrderKind.MIGRATE:
        parts.inbox.post(Migrate(order.count))


class _Beats:
    """What this worker tells the control plane, once a second."""

    def __init__(
        self, config: WorkerConfig, parts: WorkerParts, engine_thread: EngineThread, port: int
    ) -> None:
        self._config = config
        self._parts = parts
        self._engine_thread = engine_thread
        self.pairs: Callable[[], tuple[PairStatus, ...]] = tuple  # of nobody yet
        host = config.advertise_host or config.host
        self.address = f"{host}:{port}"
        self._metrics_url = (
            f"http://{host}:{config.metrics_port}/metrics" if config.metrics_port else ""
        )

    def next_beat(self) -> WorkerBeat:
        report = self._engine_thread.report
        info = WorkerInfo(
            worker_id=self._parts.worker_id,
            epoch=self._parts.epoch,
            role=report.role,
            address=self.address,
            fabric=self._parts.fabric,
            fingerprint=self._parts.fingerprint,
            max_model_len=self._parts.max_model_len,
            num_blocks=report.num_blocks,
            draining=report.draining,
            pid=os.getpid(),
            metrics_url=self._metrics_url,
            pairs=self.pairs(),
            role_epoch=report.role_epoch,
            flipping=report.flipping,
            hardware=self._parts.hardware,
        )
        return WorkerBeat(info, report)


@contextlib.contextmanager
def _exposed(config: WorkerConfig, metrics: Metrics, health: Health) -> Iterator[None]:
    """The process's metrics and health on their port, where there is one."""
    if not config.metrics_port:
        yield
        return
    server = MetricsServer(config.host, config.metrics_port, metrics.exposition, health)
    server.start()
    try:
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def _running_engine(
    parts: WorkerParts, hub: SessionHub, metrics: Metrics
) -> Iterator[EngineThread]:
    """The engine's thread, started; its turns reach the hub on the running loop."""
    loop = asyncio.get_running_loop()
    meter = WorkerMeter(metrics, parts.worker_id, parts.fingerprint.model, parts.num_gpus)
    meter.show(parts.core.report())

    def on_loop(outbox: Outbox) -> None:
        hub.deliver(outbox)
        meter.observe(outbox)

    def deliver(outbox: Outbox) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to tell
            loop.call_soon_threadsafe(on_loop, outbox)

    thread = EngineThread(
        parts.core,
        parts.inbox,
        deliver,
        SystemClock(),
    )
    thread.start()
    try:
        yield thread
    finally:
        if not thread.stop(_STOP_TIMEOUT_S):
            log.get_logger("worker").error("engine_hangs")


async def _drained(config: WorkerConfig, engine_thread: EngineThread) -> None:
    """Returns when every leg has ended and every export is released, or time is up.

    Published blocks outlast the time of the legs: others are reading them. Each is released or
    expires, so a lease more is enough.
    """
    if await _comes_true(lambda: engine_thread.is_quiet, config.drain_timeout_s):
        return
    report = engine_thread.report
    logger = log.get_logger("worker")
    logger.warning("drain_timed_out", running=report.num_running, exports=report.num_exports)
    if not await _comes_true(lambda: not engine_thread.report.num_exports, config.lease_s):
        logger.error("exports_abandoned", exports=engine_thread.report.num_exports)


async def _comes_true(condition: Callable[[], bool], timeout_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(_DRAIN_POLL_S)
            return True
    return False
