"""The settings of one control plane process."""

from dataclasses import dataclass

from control_plane.pace import BEAT_TIMEOUT_S

_WILDCARDS = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Where the control plane listens, and how long it waits for heartbeats.

    settle_s: how long a fresh registry hears beats before it shows its first snapshot, so that
    its restart does not look like the loss of every worker. metrics_port 0: no metrics over HTTP.
    http_port: of the operator API. operator_token: of those who may act, without one nobody may;
    protect_reads: reading asks for it too. audit_file: where actions are written as JSON lines.
    plan: off, advise or act. planner_file: TOML with the planner's bounds. prometheus_url: where
    the gateways' figures are asked for; without one, gateway_metrics lists their /metrics.
    actuator: who starts and ends workers, advisory, kubernetes or ray. election: how one of several
    control planes comes to act, none, redis or kubernetes. identity: this one's name, empty for
    host and process id; leader_lease_s: after how long a silent leader is followed.
    advertise_url: where operators and the other control planes reach this one's operator API.
    state: where pause, pin, configuration, decisions and audit live, memory or redis; a worker's
    record there runs out after state_ttl_s.
    kube_prefill, kube_decode: KIND/NAME of a Deployment or LeaderWorkerSet, one for each kind of
    hardware and parted by commas, empty for none.
    ray_address: HOST:PORT of a Ray cluster, or auto; ray_namespace: where its actors are found
    again; ray_cpus, ray_gpus: what each reserves; ray_worker: the flags of `baton prefill` and
    `baton decode` there, such as --model; ray_control_address: where those workers register.
    parent_pid 0: this process outlives the one that started it.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    cluster_token: str = ""
    beat_timeout_s: float = BEAT_TIMEOUT_S
    settle_s: float = 2.0
    metrics_port: int = 0
    http_port: int = 0  # the one after port, a free one where that is 0; -1: no operator API
    operator_token: str = ""
    protect_reads: bool = False
    audit_file: str = ""
    plan: str = "off"
    planner_file: str = ""
    gateway_metrics: str = ""
    prometheus_url: str = ""
    prometheus_token: str = ""
    actuator: str = "advisory"
    ready_timeout_s: float = 600.0
    election: str = "none"
    identity: str = ""
    advertise_url: str = ""
    leader_lease_s: float = 10.0
    state: str = "memory"
    state_ttl_s: float = 30.0
    redis_url: str = "redis://127.0.0.1:6379/0"
    kubeconfig: str = ""  # the pod's service account, else the user's own file
    kube_namespace: str = "default"
    kube_lease: str = "baton-control-plane"
    kube_prefill: str = "deployment/baton-prefill"
    kube_decode: str = "deployment/baton-decode"
    ray_address: str = ""
    ray_namespace: str = "baton"
    ray_cpus: float = 1.0
    ray_gpus: float = 0.0
    ray_control_address: str = "127.0.0.1:8090"
    ray_worker: str = ""
    parent_pid: int = 0
    log_level: str = "info"

    @property
    def reachable_url(self) -> str:
        """Of the operator API, for others; empty where a wildcard address or a free port is all
        that is known."""
        if self.advertise_url or self.operator_port <= 0 or self.host in _WILDCARDS:
            return self.advertise_url.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.operator_port}"

    @property
    def operator_port(self) -> int:
        """Where the operator API listens; 0: a free one."""
        return self.http_port or (self.port + 1 if self.port else 0)
