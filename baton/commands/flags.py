"""Command-line flags made of a config dataclass: one a field, so that the two cannot differ."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar

import typer

from runtime.settings import SettingsError, load

T = TypeVar("T")

# These come from BATON_* variables or the file only.
SECRET_FIELDS = frozenset({"cluster_token", "gateway_key", "operator_token", "prometheus_token"})
_PLAIN_TYPES = (str, int, float, bool)

HELP: Mapping[str, str] = {
    "advertise_host": "Host that others reach this worker at; empty: --host.",
    "advertise_url": "Address of this operator API for others; empty: --host and --http-port.",
    "actuator": "Who starts and ends workers: advisory or kubernetes.",
    "coalesce_ms": "Tokens of an answer that come so soon behind others go together; 0: off.",
    "state_ttl_s": "Seconds that a worker's record in Redis outlives its last beat.",
    "election": "How one of several control planes comes to act: none, redis or kubernetes.",
    "identity": "This control plane's name in an election; empty: host and process id.",
    "leader_lease_s": "Seconds after which a silent leader is followed.",
    "kube_decode": "Deployments (LeaderWorkerSets) of decode workers: deployment/A,deployment/B.",
    "kube_lease": "Name of the Lease of --election kubernetes.",
    "kube_namespace": "Namespace of the workers and of the lease.",
    "kube_prefill": "Deployments (LeaderWorkerSets) of prefill workers: deployment/A,deployment/B.",
    "kubeconfig": "Kubernetes client configuration; empty: the pod's own, else the user's.",
    "ray_namespace": "Where this cluster's actors are found again by the next control plane.",
    "ray_worker": "Flags of the workers that Ray starts, such as '--model /models/llama'.",
    "ray_control_address": "Where the workers that Ray starts register; several parted by commas.",
    "state": "Where pause, pin, decisions and audit live: memory or redis.",
    "ray": "Keep the workers as actors of a Ray cluster that is started on this host.",
    "ray_address": "Keep the workers on the nodes of this Ray cluster, such as HOST:6379 or auto.",
    "ray_cpus": "CPUs that a worker reserves on its Ray node.",
    "ray_gpus": "GPUs that a worker reserves on its Ray node.",
    "ray_wait_s": "How long the Ray cluster and its first node may take to be there.",
    "redis_url": "Redis of several control planes, as redis://HOST:PORT/DB.",
    "audit_file": "File of operator actions as JSON lines; empty: none.",
    "beat_timeout_s": "Seconds without a heartbeat after which a worker is dropped.",
    "body_timeout_s": "Seconds that a client may take to send a request's body.",
    "control_address": "host:port of the control plane; several, parted by commas.",
    "control_port": "Port of the control plane; 0: a free one.",
    "dashboard_port": "Port of the dashboard; 0: 8080, else a free one; -1: none.",
    "decode": "Decode workers to start.",
    "device": "cpu, cuda, cuda:1, or auto for cuda where there is one.",
    "draft_model": "With --speculate model: directory of a small model or an EAGLE-3 head.",
    "drain_s": "Seconds that running requests may go on after SIGTERM.",
    "drain_timeout_s": "Seconds that running requests may go on after SIGTERM.",
    "move_above": "Share of the KV pool from which the longest request is moved away; 0: never.",
    "dtype": "float32, bfloat16, or auto for the checkpoint's.",
    "expected_bytes_s": "KV bytes a second that a link should carry; deadlines come from it.",
    "gateway_metrics": "Addresses of the gateways' /metrics, separated by commas.",
    "hedge": "Times its forecast's p95 after which a first token is asked of others too; 0: never.",
    "hedge_min_ms": "The least that a first token may take before it is asked of others.",
    "hedge_share": "Share of the requests that may be asked of other workers as well.",
    "host": "Address to listen on.",
    "http_port": "Port of the operator API; 0: the one after the control port, -1: none.",
    "kv_dtype": "What the KV cache holds: auto (the model's dtype) or fp8.",
    "host_kv_memory": "Host memory for blocks that a worker's KV cache has no room for; 0: none.",
    "kv_device_path": "A GPU worker's KV: host (by a mirror) or direct (not yet run on a GPU).",
    "kv_memory": "Memory of a worker's KV cache, such as 512MiB or 2GB.",
    "kv_tls_ca": "PEM file of the authority of the workers' certificates; empty: KV without TLS.",
    "kv_tls_cert": "PEM file of this worker's certificate for KV connections.",
    "kv_tls_key": "PEM file of the certificate's key.",
    "lease_s": "Seconds that published KV blocks wait to be pulled.",
    "log_level": "debug, info, warning or error.",
    "max_batch_tokens": "Tokens in one engine step; 0: the role's default.",
    "cors_origins": "Origins whose pages may call the server, parted by commas; * for all.",
    "fabric_port": "Port at which KV blocks are pulled; 0: a free one.",
    "first_token_timeout_s": "Seconds that an answer may take to its first token; 0: no limit.",
    "ignore_unknown_fields": "Leave out fields that no endpoint knows, in place of a 400.",
    "gateway_key": "API key for gateways that ask for one.",
    "gateway_urls": "Addresses of the gateways, as http://HOST:PORT, parted by commas.",
    "header_timeout_s": "Seconds that a client may take to send a request's headers.",
    "max_body_bytes": "Largest request body that is read.",
    "max_choices": "Answers that one request may ask for.",
    "max_prompt_tokens": "Longest prompt in tokens; 0: what the context holds.",
    "request_defaults": 'What requests leave out, as JSON: {"max_tokens": 512, "top_p": 0.9}.',
    "request_timeout_s": "Seconds that an answer may take to its end; 0: no limit.",
    "stall_timeout_s": "Seconds until a client that reads nothing of its answer is cut off.",
    "tenants_redis": "URL of the Redis that has the tenants, in place of tenants_file.",
    "usage_log": "File that gets a line of JSON per request, for bills; empty: none.",
    "usage_log_bytes": "Size at which the usage log is renamed and begun anew.",
    "tls_certificate": "PEM file of the server's certificate and its chain; empty: plain HTTP.",
    "tls_key": "PEM file of the certificate's key; empty: in the certificate's file.",
    "tls_client_ca": "PEM file of the authorities of clients' certificates; empty: none is asked.",
    "tls_min_version": "Oldest version of TLS that is spoken: 1.2 or 1.3.",
    "gateways": "Gateway processes that share the ports.",
    "group_dir": "Folder where the gateways of one port find each other; set by --processes.",
    "group_number": "Which of the gateways on one port this is; set by --processes.",
    "grpc_port": "Port of the gRPC services; 0: the one after --port; -1: none.",
    "processes": "Processes that share the ports.",
    "max_drafts": "Tokens that are guessed ahead of a sequence in one step, at most.",
    "max_model_len": "Tokens of prompt and answer together; 0: what the model allows.",
    "max_num_seqs": "Sequences that run at the same time.",
    "max_workers": "Workers that may run here; 0: one a core, 64 with a profile.",
    "metrics_port": "Port of /metrics; 0: none. Under `up`, workers take the ports after it.",
    "model": "A Hugging Face model directory.",
    "operator_token": "Token of operators; without one nobody may act.",
    "operator_url": "Address of the control plane's operator API.",
    "otlp_endpoint": "Where spans go: OTLP over gRPC, as http://HOST:4317; empty: nowhere.",
    "trace_share": "Share of the requests without a traceparent that are traced.",
    "hardware": "Kind of this worker's hardware, as the planner's configuration names it.",
    "parent_pid": "End when this process ends; 0: never.",
    "plan": "The planner: off, advise (decides and shows), or act (flips, adds, removes workers).",
    "planner_file": "TOML file of the planner's bounds, budget, hardware kinds and schedules.",
    "policy": "How workers are chosen: uncached_tokens, predicted, or a peer's rule.",
    "port": "Port to listen on; 0: a free one, where another process learns it.",
    "prefill": "Prefill workers to start.",
    "profile": "Take a profile's time and compute nothing, as llama-3.1-8b@h200.",
    "protect_reads": "Ask for the operator token also where nothing is changed.",
    "prometheus_token": "Bearer token for the Prometheus server.",
    "prometheus_url": "Prometheus server to ask for traffic; empty: the gateways themselves.",
    "ready_timeout_s": "Seconds until the cluster must serve.",
    "recording": "File for what reaches placement, for `baton simulate --replay`; empty: none.",
    "reject_ratio": "Forecast over objective that is refused; 0: none; -1: 1 if stated, else 3.",
    "router_profile": "Profile whose step times forecasts begin with; empty: they are learned.",
    "router_redis": "URL of the Redis that gateways share loads through; empty: each is alone.",
    "served_model_name": "What clients call the model; empty: the directory's name.",
    "settle_s": "Seconds of heartbeats before the first snapshot is shown.",
    "shadow_policies": "Policies that are asked beside the live one, parted by semicolons.",
    "shadow_share": "Share of the placements that shadow policies are asked about.",
    "tenants_file": "TOML file of API keys and limits; empty: everybody may use the server.",
    "speculate": "Guess tokens ahead: off, lookup (in the text so far), or model (--draft-model).",
    "tcp_connections": "TCP connections to each source of KV blocks, 1 to 16, a thread each.",
    "prefill_tensor_parallel": "--tensor-parallel of the prefill workers, where it differs.",
    "decode_tensor_parallel": "--tensor-parallel of the decode workers, where it differs.",
    "tensor_parallel": "Processes of one host that compute a worker's model together.",
    "threads": "Threads of a worker; 0: the cores that there are.",
    "tpot_slo_ms": "Objective of the mean time of a token, which the policy aims at.",
    "trace_log": "File for every ended request as a line of JSON, bounded; empty: none.",
    "transport": "How KV blocks travel: shm, tcp, nixl, ucx, cuda_ipc, or auto.",
    "ttft_slo_ms": "Objective of the time to the first token, which the policy aims at.",
    "verbose": "Pass the output of all processes through instead of writing log files.",
    "verify_share": "Share of the KV regions that are compared by digest; 1: all.",
    "wire_format": "How KV crosses sockets: as_is, auto, packed, auto_fp8 or fp8.",
    "worker_id": "Name of this worker in the cluster; empty: role and process id.",
}


def config_command(
    cls: type[T],
    table: str,
    run: Callable[[T], int],
    fixed: Mapping[str, object] | None = None,
) -> Callable[..., None]:
    """A typer command that builds `cls` from flags, environment and file, and runs it.

    fixed: fields that the command's name decides. Ends the process with the code that `run`
    gives, or with 2 when a setting cannot be used.
    """
    given = dict(fixed or {})

    def command(config: Path | None = None, **flags: object) -> None:
        raise typer.Exit(run(load_or_exit(cls, {**flags, **given}, config, table)))

    return with_flags_of(cls, command, hidden=frozenset(given))


def load_or_exit(cls: type[T], flags: Mapping[str, object], file: Path | None, table: str) -> T:
    """The settings; a setting that cannot be used is printed, and ends the process with 2."""
    try:
        return load(cls, flags, file=file, table=table)
    except SettingsError as error:
        typer.echo(f"baton {table}: {error}", err=True)
        raise typer.Exit(2) from error


def with_flags_of(
    cls: type[Any], command: Callable[..., None], hidden: frozenset[str] = frozenset()
) -> Callable[..., None]:
    """Gives `command`, which takes the fields by name, the signature that typer reads."""
    own = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and parameter.name != "config"
    ]
    shown = [f for f in fields(cls) if f.name not in hidden | SECRET_FIELDS]
    file_help = "A TOML file; flags and BATON_* variables go before it."
    parameters = [
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
        _parameter("config", Path, typer.Option(None, help=file_help)),
        *(_parameter(f.name, _type_of(f), _option(f)) for f in shown),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, kind: type[Any], option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None
    )


def _type_of(field: Field[Any]) -> type[Any]:
    assert field.type in _PLAIN_TYPES, f"no flag can be made of {field.name}: {field.type}"
    return field.type


def _option(field: Field[Any]) -> Any:
    """None stands for not given, so that the environment and the file are asked."""
    default = "" if field.default is MISSING else str(field.default)
    flag = f"--{field.name.replace('_', '-')}"
    return typer.Option(None, flag, help=HELP.get(field.name, ""), show_default=default or False)
