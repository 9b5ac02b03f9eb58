"""A cluster on this host: the control plane in this process, workers and gateway as children."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from baton.gateway_group import group_flags
from baton.local_dashboard import start_dashboard
from baton.mode_case import SimulatedModes
from baton.probe import http_status, local_host
from baton.remote_workers import RemoteWorkers
from baton.up_config import UpConfig
from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused
from control_plane.actuators.local import LocalActuator
from control_plane.actuators.process_spec import ProcessExit, ProcessSpec
from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from dashboard.server import DashboardServer
from gateway.config import GatewayConfig
from runtime.clock import Clock
from runtime.lifecycle import free_port
from runtime.settings import load
from wire.cluster import ClusterStatus, ProcessStatus
from wire.messages import Role
from worker.config import WorkerConfig

GATEWAY, PREFILL, DECODE = "gateway", "prefill", "decode"
_POLL_S = 0.05
_UNREADY_PERIOD_S = 1.0
# The processes share this host's cores: a thread that waits must not spin on one of them.
_SHARED_CORES = {"OMP_WAIT_POLICY": "passive"}
_DRAIN_MARGIN_S = 2.0  # for what a process does after its own drain deadline


class ClusterStartError(Exception):
    """A process of the cluster ended before the cluster was ready, or it took too long."""


class LocalCluster:
    """Owns every process of one `baton up`, from `start` to the end of `stop`.

    config_file: handed to the children, each of which reads its own table. on_exit hears of
    processes that end on their own once the cluster is ready. program: the command line that
    takes `prefill`, `decode` or `gateway` and their flags.
    """

    def __init__(
        self,
        config: UpConfig,
        clock: Clock,
        *,
        config_file: Path | None = None,
        log_dir: Path | None = None,
        on_exit: Callable[[ProcessExit], None] = lambda exit: None,
        program: tuple[str, ...] = (sys.executable, "-m", "baton"),
    ) -> None:
        self._config = config
        self._clock = clock
        self._program = program
        self._config_file = config_file
        self._on_exit = on_exit
        self._failure: asyncio.Future[ProcessExit] = asyncio.get_running_loop().create_future()
        self._is_ready = False
        self._watching: asyncio.Task[None] | None = None
        templates = {GATEWAY: self._gateway, PREFILL: self._worker_of(PREFILL)}
        templates[DECODE] = self._worker_of(DECODE)
        self._actuator = LocalActuator(
            templates,
            clock,
            log_dir=None if config.verbose else log_dir,
            on_exit=self._process_ended,
            max_workers=config.worker_quota,
            serving=lambda: self._control.serving(),
            ready_timeout_s=config.ready_timeout_s,
        )
        self._gateway_dir = TemporaryDirectory(prefix="baton-gateways-")
        self._ray = self._ray_workers(clock) if config.uses_ray else None
        self._node_host = "127.0.0.1"
        self._dashboard: DashboardServer | None = None
        self._control = ControlServer(
            ControlConfig(
                host="0.0.0.0" if config.ray_address else "127.0.0.1",
                protect_reads=bool(config.ray_address),  # others than this host's can ask
                port=config.control_port,
                cluster_token=config.cluster_token,
                metrics_port=config.metrics_port,
                settle_s=0.0,  # the workers start after it
                http_port=config.http_port,
                operator_token=config.operator_token,
                audit_file=str(log_dir / "audit.jsonl") if log_dir else "",
                plan=config.plan,
                planner_file=config.planner_file,
                gateway_metrics=f"{self.gateway_scheme}://{local_host(config.host)}:{config.port}/metrics",
            ),
            clock,
            self._processes,
            actuator=self._ray.actuator if self._ray else self._actuator,
            actuator_name="ray" if self._ray else "local",
            modes=SimulatedModes(),
        )

    @property
    def control_address(self) -> str:
        return f"{self._node_host}:{self._control.port}"

    @property
    def operator_url(self) -> str:
        """Of the operator API; empty where there is none."""
        port = self._control.http_port
        return f"http://127.0.0.1:{port}" if port else ""

    @property
    def dashboard_url(self) -> str:
        """Of the operator's page; empty where there is none."""
        page = self._dashboard
        return f"http://127.0.0.1:{page.port}" if page else ""

    async def start(self) -> None:
        """Starts everything. Raises OSError when the control or the metrics port is taken,
        ClusterStartError where Ray has no place for the workers."""
        await self._control.start()
        if self._ray is not None:
            await self._start_on_ray(self._ray)
        else:
            await self._actuator.scale(PREFILL, self._config.prefill)
            await self._actuator.scale(DECODE, self._config.decode)
        await self._actuator.scale(GATEWAY, self._config.gateways)
        self._dashboard = await start_dashboard(self._config, self.operator_url, self._clock)

    async def wait_ready(self) -> None:
        """Until every worker is registered and the gateway serves. Raises ClusterStartError."""
        ready = asyncio.create_task(self._poll_ready())
        either: set[asyncio.Future[Any]] = {ready, self._failure}
        limit_s = self._config.ready_timeout_s
        try:
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                raise ClusterStartError(_describe(self._failure.result()))
            if not ready.done():
                raise ClusterStartError(f"not ready in {limit_s:.0f} s")
            await ready
            self._is_ready = True
            if self._watching is None:
                self._watching = asyncio.create_task(self._watch_unready(), name="unready-workers")
        finally:
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready

    async def stop(self) -> None:
        """Gateway first, so that no request is accepted that no worker would serve."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._dashboard is not None:
            await self._dashboard.stop()
        await self._actuator.stop(GATEWAY)
        await self._actuator.stop(PREFILL, DECODE)
        if self._ray is not None:
            await self._ray.stop()
        await self._control.stop()
        self._gateway_dir.cleanup()
        self._actuator.check_integrity()

    def kill(self) -> None:
        """Ends every process at once; `stop` still collects them."""
        self._actuator.kill()

    @property
    def gateway_scheme(self) -> str:
        """https where the gateway's own settings give it a certificate."""
        found = load(GatewayConfig, {"model": ""}, file=self._config_file, table=GATEWAY)
        return "https" if found.tls_certificate else "http"

    def kv_memory(self, worker_id: str) -> str:
        """The KV memory that a worker was told to take, as it was written."""
        role = worker_id.rpartition("-")[0]
        flags = {"model": "", "kv_memory": self._config.kv_memory or None}
        return load(WorkerConfig, flags, file=self._config_file, table=role).kv_memory

    async def status(self) -> ClusterStatus:
        return await self._control.plane.status()

    async def _poll_ready(self) -> None:
        config = self._config
        while len(self._control.registry.snapshot.workers) < config.num_workers:
            if self._ray is not None and (why := self._ray.failure()):
                raise ClusterStartError(why)
            await asyncio.sleep(_POLL_S)
        is_tls = self.gateway_scheme == "https"
        while await http_status(config.host, config.port, "/readyz", is_tls=is_tls) != 200:
            await asyncio.sleep(_POLL_S)

    async def _watch_unready(self) -> None:
        """Workers that were added later have as long to register as those of the start."""
        unready = self._control.metrics.counter
        while True:
            replaced = await self._ray.look_after() if self._ray else ()
            for name in (*self._actuator.replace_unready(), *replaced):
                unready("baton_control_unready_total", role=name.rpartition("-")[0]).inc()
            await asyncio.sleep(_UNREADY_PERIOD_S)

    def _ray_workers(self, clock: Clock) -> RemoteWorkers:
        from baton.ray_workers import RayWorkers  # Ray is loaded only where it is used

        templates = {role: self._worker_of(role.value) for role in Role}
        return RayWorkers(self._config, clock, templates, lambda: self._control.serving())

    async def _start_on_ray(self, workers: RemoteWorkers) -> None:
        try:
            host = await workers.connect()
            if self._config.ray_address:
                self._node_host = host
            for role, count in self._config.pools().items():
                await workers.actuator.add(role, count, "")
        except (ActuatorRefused, ActuatorConflict) as error:
            raise ClusterStartError(str(error)) from error
        self._watching = asyncio.create_task(self._watch_unready(), name="unready-workers")

    def _processes(self) -> tuple[ProcessStatus, ...]:
        return (*self._actuator.processes(), *(self._ray.processes() if self._ray else ()))

    def _process_ended(self, end: ProcessExit) -> None:
        self._control.plane.process_died(end.name, end.pid)
        if end.was_asked:
            return
        if not self._is_ready:
            if not self._failure.done():
                self._failure.set_result(end)
            return
        if end.will_restart:
            self._control.metrics.counter("baton_control_restarts_total", kind=end.kind).inc()
        self._on_exit(end)

    def _gateway(self, number: int) -> ProcessSpec:
        config = self._config
        flags = {
            "host": config.host,
            "port": config.port,
            "grpc_port": config.grpc_port or -1,
            "drain_s": config.drain_s,
            "tenants_file": config.tenants_file or None,
            "reject_ratio": config.reject_ratio if config.reject_ratio >= 0 else None,
            "hedge": config.hedge or None,
            "shadow_policies": config.shadow_policies or None,
            "shadow_share": config.shadow_share or None,
            "router_redis": config.router_redis or None,
            "router_profile": config.router_profile or None,
            "trace_log": config.trace_log or None,
        }
        if config.gateways == 1:
            return self._spec("gateway", GATEWAY, flags)
        group = group_flags(self._gateway_dir.name, number, config.gateways)
        if config.trace_log:
            flags["trace_log"] = f"{config.trace_log}.{number}"
        return self._spec(f"gateway-{number}", GATEWAY, {**flags, **group})

    def _worker_of(self, role: str) -> Callable[[int], ProcessSpec]:
        def spec(number: int) -> ProcessSpec:
            config = self._config
            flags = {
                "worker_id": f"{role}-{number}",
                "host": "127.0.0.1",
                "port": 0,
                "threads": config.threads_per_worker,
                "tensor_parallel": config.ranks_of(role) or None,
                "kv_memory": config.kv_memory or None,
                "host_kv_memory": config.host_kv_memory or None,
                "profile": config.profile or None,
                "dtype": config.dtype or None,
                "kv_dtype": config.kv_dtype or None,
                "speculate": config.speculate or None,
                "draft_model": config.draft_model or None,
                "max_drafts": config.max_drafts or None,
                "transport": config.transport or None,
                "kv_device_path": config.kv_device_path or None,
                "drain_timeout_s": config.drain_s,
                "metrics_port": self._metrics_port(role, number) or None,
            }
            return self._spec(f"{role}-{number}", role, flags)

        return spec

    def _metrics_port(self, role: str, number: int) -> int:
        """One of those that were set aside; workers that were added later take free ones."""
        of_start = self._config.prefill if role == PREFILL else self._config.decode
        if self._config.metrics_port and number >= of_start:
            return free_port()
        return self._config.worker_metrics_port(role, number)

    def _spec(self, name: str, kind: str, own_flags: dict[str, object]) -> ProcessSpec:
        config = self._config
        shared_flags = {
            "config": self._config_file,
            "model": config.model_directory.resolve(),
            "served_model_name": config.model_name,
            "control_address": self.control_address,
            "max_model_len": config.max_model_len or None,
            "parent_pid": os.getpid(),
            "log_level": config.log_level,
            "otlp_endpoint": config.otlp_endpoint or None,
        }
        argv = (*self._program, kind, *as_flags({**shared_flags, **own_flags}))
        return ProcessSpec(
            name=name,
            kind=kind,
            argv=argv,
            env={"BATON_CLUSTER_TOKEN": config.cluster_token, **_SHARED_CORES},
            drain_s=config.drain_s + _DRAIN_MARGIN_S,
        )


def as_flags(values: dict[str, object]) -> list[str]:
    """Command-line flags of settings by name; None is left out, True is a flag by itself."""
    flags: list[str] = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags += [flag, str(value)]
    return flags


def _describe(end: ProcessExit) -> str:
    how = f"exit code {end.exit_code}" if end.exit_code >= 0 else f"signal {-end.exit_code}"
    return f"{end.name} ended ({how}): {end.last_line or 'see its output above'}"
