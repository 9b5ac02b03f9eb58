"""The settings of a router that runs as a process of its own."""

from dataclasses import dataclass

from router.config import DEFAULT_TPOT_SLO_MS, DEFAULT_TTFT_SLO_MS


@dataclass(frozen=True, slots=True)
class RouterServerConfig:
    """`baton router`. policy: as router.policies.named takes it; the rest is router.config's, whose
    profile is router_profile.

    drain_s: how long running answers may go on after SIGTERM. parent_pid: if set, this process
    ends when that one does.
    """

    host: str = "127.0.0.1"
    port: int = 8002
    control_address: str = "127.0.0.1:8090"
    cluster_token: str = ""
    policy: str = "predicted"
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS
    tpot_slo_ms: float = DEFAULT_TPOT_SLO_MS
    reject_ratio: float = -1.0
    hedge: float = 0.0
    hedge_min_ms: float = 200.0
    hedge_share: float = 0.05
    shadow_policies: str = ""
    shadow_share: float = 0.1
    router_redis: str = ""
    router_profile: str = ""
    trace_log: str = ""
    recording: str = ""
    drain_s: float = 30.0
    metrics_port: int = 0
    log_level: str = "info"
    parent_pid: int = 0
