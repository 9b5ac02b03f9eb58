"""The gateway's process: builds its parts, serves until SIGTERM, drains, exits."""

import asyncio
import contextlib
import logging
import socket
import ssl
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from gateway.app import DISTRIBUTION, build_app
from gateway.client_certificate import CertifiedOnly
from gateway.config import GatewayConfig
from gateway.connection import connections_with
from gateway.endpoint import Services
from gateway.gate import Gate
from gateway.group import MetricsGroup, telling
from gateway.grpc_server import GrpcAddress, GrpcServer, serving
from gateway.meter import GatewayMeter
from gateway.model_directory import ModelDirectoryError, ModelFiles, read_model_directory
from gateway.prepare import Preparer
from gateway.sampling_defaults import own_defaults
from gateway.tenant_source import following, open_gate, sharing
from gateway.tenants import TenantFileError
from gateway.tls import asks_clients, server_context
from gateway.tokenizer import PromptEncoder
from gateway.usage import UsageLog
from router.config import RouterConfig
from router.policies.named import policy_named, policy_names
from router.router import Router
from runtime import log
from runtime.clock import SystemClock, wall_time_s
from runtime.http_server import HttpServer, allow_connections, listen
from runtime.lifecycle import collect_rarely, die_with_parent, new_id, stop_event
from runtime.metrics import GATEWAY_METRICS, Metrics
from runtime.tracing import Tracer, open_tracer

KEEP_ALIVE_S = 75
_WHAT = "the gateway"
_AFTER_DRAIN_S = 5

_log = log.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one process; whoever builds it starts the router, and closes the encoder
    and the preparer."""

    app: ASGIApp
    services: Services
    router: Router
    encoder: PromptEncoder
    preparer: Preparer
    group: MetricsGroup | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What has to be there before a process can serve; close() closes the log."""

    model: ModelFiles
    gate: Gate
    tls: ssl.SSLContext | None
    usage_log: UsageLog | None
    tracer: Tracer | None
    listener: socket.socket

    def close(self) -> None:
        if self.usage_log is not None:
            self.usage_log.close()
        if self.tracer is not None:
            self.tracer.close()


def run(config: GatewayConfig) -> int:
    """Serves until SIGTERM or SIGINT; gives the exit status, 0 after a drain."""
    log.configure("gateway", level=config.log_level)
    logging.getLogger("uvicorn.error").addHandler(_ServerLog(logging.WARNING))
    if config.parent_pid:
        die_with_parent(config.parent_pid)
    allow_connections()
    try:
        opened = _open(config)
    except (ModelDirectoryError, TenantFileError, OSError, ValueError) as error:
        _log.error("the gateway cannot start", reason=str(error))
        return 1
    with contextlib.closing(opened), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, opened))


def _open(config: GatewayConfig) -> Opened:
    for name in policy_names(config.policy, config.shadow_policies):
        policy_named(name)
    model = read_model_directory(Path(config.model), config.served_model_name, config.max_model_len)
    defaults = own_defaults(model.defaults, config.request_defaults)
    return Opened(
        model=replace(model, defaults=defaults),
        gate=open_gate(
            config.tenants_file, config.tenants_redis, SystemClock(), config.num_limit_shares
        ),
        tls=_tls(config),
        usage_log=_usage_log(config),
        tracer=_tracer(config),
        listener=listen(config.host, config.port, _WHAT, shares_port=config.shares_port),
    )


def _tracer(config: GatewayConfig) -> Tracer | None:
    """Raises ValueError naming the setting."""
    if not 0 <= config.trace_share <= 1:
        raise ValueError(f"trace_share must be from 0 to 1, is {config.trace_share}")
    instance = f"gateway-{config.group_number}"
    return open_tracer(config.otlp_endpoint, "baton-gateway", instance, config.trace_share)


def _usage_log(config: GatewayConfig) -> UsageLog | None:
    """Raises OSError naming the setting."""
    if not config.usage_log:
        return None
    try:
        return UsageLog(Path(config.usage_log), config.usage_log_bytes, SystemClock())
    except OSError as error:
        raise OSError(f"usage_log {config.usage_log}: {error.strerror}") from error


def build(config: GatewayConfig, opened: Opened) -> Gateway:
    """Wires the process; called inside the running loop."""
    clock = SystemClock()
    model = opened.model
    metrics = Metrics(GATEWAY_METRICS)
    metrics.gauge("baton_gateway_info", model=model.name).set(1)
    router = Router(
        RouterConfig(
            control_address=config.control_address,
            client_id=new_id("gateway"),
            cluster_token=config.cluster_token,
            policy=config.policy,
            profile=config.router_profile,
            ttft_slo_ms=config.ttft_slo_ms,
            tpot_slo_ms=config.tpot_slo_ms,
            reject_ratio=config.reject_ratio,
            hedge=config.hedge,
            hedge_min_ms=config.hedge_min_ms,
            hedge_share=config.hedge_share,
            coalesce_ms=config.coalesce_ms,
            shadow_policies=config.shadow_policies,
            shadow_share=config.shadow_share,
            redis_url=config.router_redis,
            trace_log=config.trace_log,
            recording=config.recording,
        ),
        clock,
        metrics,
        tracer=opened.tracer,
    )
    services = Services(
        model=model,
        source=router,
        meter=GatewayMeter(metrics, clock, opened.usage_log, opened.tracer),
        gate=opened.gate,
        limits=config.limits,
    )
    encoder = PromptEncoder(model.tokenizer)
    preparer = Preparer(model, encoder, config.ignore_unknown_fields)
    group = _group(config, metrics)
    app = build_app(
        services,
        preparer,
        group.exposition if group else metrics.exposition,
        int(wall_time_s()),
        config.allowed_origins,
    )
    return Gateway(app, services, router, encoder, preparer, group)


def _group(config: GatewayConfig, metrics: Metrics) -> MetricsGroup | None:
    """None where this is the only process on its port."""
    if not config.group_dir:
        return None
    return MetricsGroup(Path(config.group_dir), config.group_number, metrics.exposition)


async def _serve(config: GatewayConfig, opened: Opened) -> int:
    stop = stop_event()
    try:
        gateway = build(config, opened)
        grpc_server = _grpc_server(config, gateway)
    except (OSError, ValueError) as error:
        _log.error("the gateway cannot start", reason=str(error))
        return 1
    await gateway.router.start()
    collect_rarely()
    try:
        async with (
            following(config.tenants_redis, opened.gate),
            sharing(config.limits_redis, opened.gate),
            telling(gateway.group),
            serving(grpc_server, stop, config.drain_s),
        ):
            await serve_app(
                gateway.app, gateway.services, opened.listener, stop, config.drain_s, opened.tls
            )
        return 0
    finally:
        await gateway.router.stop()
        gateway.encoder.close()
        gateway.preparer.close()


def _grpc_server(config: GatewayConfig, gateway: Gateway) -> GrpcServer | None:
    port = config.grpc_listen_port
    if not port:
        return None
    address = GrpcAddress(
        config.host,
        port,
        config.tls_certificate,
        config.tls_key,
        config.shares_port,
        config.tls_client_ca,
    )
    return GrpcServer(address, gateway.services, gateway.preparer, DISTRIBUTION)


async def serve_app(
    app: ASGIApp,
    services: Services,
    listener: socket.socket,
    stop: asyncio.Event,
    drain_s: float,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves on a bound socket until `stop`; running streams then have drain_s to end.

    tls: as server_context makes it; whether clients need certificates follows from it.
    """
    is_mutual = asks_clients(tls)
    server = HttpServer(
        uvicorn.Config(
            CertifiedOnly(app) if is_mutual else app,
            http=connections_with(services.limits, asks_for_certificate=is_mutual),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # no header says who a client is
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(drain_s) + _AFTER_DRAIN_S,
        ),
        _WHAT,
        tls,
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    _log.info("the gateway drains", streams=len(services.live))
    deadline = asyncio.get_running_loop().call_later(drain_s, services.fail_all)
    try:
        await serving
    finally:
        deadline.cancel()


class _ServerLog(logging.Handler):
    """What uvicorn has to say, among this process's own log lines."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.warning(record.getMessage(), exc_info=record.exc_info)


def _tls(config: GatewayConfig) -> ssl.SSLContext | None:
    """Raises as server_context."""
    if not config.tls_certificate:
        if config.tls_client_ca:
            raise ValueError("tls_client_ca asks for TLS: it needs tls_certificate")
        return None
    if config.tls_min_version == "1.3" and config.grpc_listen_port:
        raise ValueError("tls_min_version 1.3 cannot be had of gRPC: switch it off, grpc_port -1")
    return server_context(
        config.tls_certificate, config.tls_key, config.tls_min_version, config.tls_client_ca
    )
