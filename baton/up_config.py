"""The settings of a local cluster: `baton up`."""

import os
from dataclasses import dataclass
from pathlib import Path

import baton
from wire.messages import Role

DEMO_MODEL = Path(baton.__file__).parent / "demo_model"
DEMO_NAME = "baton-demo"
SMALL_MODEL_BYTES = 64 << 20
_MODELLED_QUOTA = 64  # they compute nothing, or other hosts do


@dataclass(frozen=True, slots=True)
class UpConfig:
    """Zeros and empty strings ask for the default named beside the field."""

    model: str = ""  # the bundled demonstration model
    served_model_name: str = ""  # the directory's name
    profile: str = ""  # real engines
    prefill: int = 1
    decode: int = 1
    host: str = "127.0.0.1"
    port: int = 8000  # 0: a free one
    grpc_port: int = 0  # the one after port, a free one where that is 0; -1: none
    gateways: int = 1  # processes on these ports
    control_port: int = 8090  # 0: a free one; the control plane listens on this host only
    http_port: int = 0  # the one after control_port, a free one where that is 0; -1: none
    dashboard_port: int = 0  # 8080, a free one where that is taken; -1: none
    kv_memory: str = ""  # the worker's
    host_kv_memory: str = ""  # the worker's
    threads: int = 0  # one for a small model, else this process's cores split among the workers
    tensor_parallel: int = 0  # the worker's
    prefill_tensor_parallel: int = 0  # tensor_parallel
    decode_tensor_parallel: int = 0  # tensor_parallel
    dtype: str = ""  # the worker's
    kv_dtype: str = ""  # the worker's
    max_model_len: int = 0  # the model's
    speculate: str = ""  # the worker's
    draft_model: str = ""  # with speculate = "model" alone
    max_drafts: int = 0  # the worker's
    transport: str = ""  # the worker's
    kv_device_path: str = ""  # the worker's
    cluster_token: str = ""  # a random one
    operator_token: str = ""  # a random one, which `baton` commands here know
    ray: bool = False  # processes of this host
    ray_address: str = ""  # with --ray, a cluster of its own on this host
    ray_cpus: float = 1.0
    ray_gpus: float = 0.0
    ray_wait_s: float = 0.0
    max_workers: int = 0  # one a core, 64 with a profile
    plan: str = "advise"
    planner_file: str = ""  # the planner's defaults
    drain_s: float = 5.0
    ready_timeout_s: float = 300.0
    tenants_file: str = ""  # none: everybody may use the server
    reject_ratio: float = -1.0  # below 0: the gateway's
    hedge: float = 0.0  # no request runs twice
    shadow_policies: str = ""  # none
    shadow_share: float = 0.0  # the gateway's
    router_redis: str = ""  # each gateway is alone
    router_profile: str = ""  # the gateway learns from nothing
    trace_log: str = ""  # none; of several gateways each adds .NUMBER
    metrics_port: int = 0  # none; the control plane's, each worker takes one after it
    otlp_endpoint: str = ""  # no spans
    parent_pid: int = 0  # none
    verbose: bool = False
    log_level: str = "info"

    @property
    def model_directory(self) -> Path:
        return Path(self.model).expanduser() if self.model else DEMO_MODEL

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        own = self.model_directory.resolve().name if self.model else DEMO_NAME
        if self.profile:
            own = self.profile.removesuffix(".toml").rpartition("/")[2]
        return self.served_model_name or own

    @property
    def num_workers(self) -> int:
        return self.prefill + self.decode

    @property
    def num_metrics_ports(self) -> int:
        return 1 + self.num_workers if self.metrics_port else 0

    def worker_metrics_port(self, role: str, number: int) -> int:
        """The port of a worker's /metrics, 0 where there is none."""
        first = 1 if role == "prefill" else 1 + self.prefill
        return self.metrics_port + first + number if self.metrics_port else 0

    def ranks_of(self, role: str) -> int:
        """Processes that share the model of a worker of that role; 0: the worker's default."""
        own = self.prefill_tensor_parallel if role == "prefill" else self.decode_tensor_parallel
        return own or self.tensor_parallel

    def pools(self) -> dict[Role, int]:
        """The workers to start, by role; a pool of none is left out."""
        counts = {Role.PREFILL: self.prefill, Role.DECODE: self.decode}
        return {role: count for role, count in counts.items() if count}

    @property
    def uses_ray(self) -> bool:
        return self.ray or bool(self.ray_address)

    @property
    def worker_quota(self) -> int:
        """Workers that may run at a time; those of the start always may."""
        many = self.profile or self.ray_address
        most = self.max_workers or (_MODELLED_QUOTA if many else _num_cores())
        return max(most, self.num_workers)

    @property
    def threads_per_worker(self) -> int:
        if self.threads:
            return self.threads
        if self._weights_bytes < SMALL_MODEL_BYTES:
            return 1  # its steps are shorter than threads take to meet
        return max(1, _num_cores() // max(1, self.num_workers))

    @property
    def _weights_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.model_directory.glob("*.safetensors"))


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
