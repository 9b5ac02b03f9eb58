"""The gateway process's settings."""

from dataclasses import dataclass

from gateway.limits import Limits
from router.config import DEFAULT_TPOT_SLO_MS, DEFAULT_TTFT_SLO_MS


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """model: a Hugging Face directory. served_model_name: empty means the directory's name.

    grpc_port: 0: the one after port, none where that is 0; -1: none.
    max_model_len: tokens of prompt and answer together, 0 means what the model allows.
    tenants_file: API keys and limits, see gateway/tenants.py; empty: everybody may use the server.
    tenants_redis: URL of the Redis that has them instead, see gateway/redis_tenants.py.
    usage_log: file that gets a line per request, see gateway/usage.py; empty: none.
    policy: as router.policies.named takes it; its objectives are ttft_slo_ms, for prompts of up to
    2,000 tokens, and tpot_slo_ms; reject_ratio, hedge, hedge_min_ms, hedge_share, shadow_policies,
    shadow_share, trace_log and recording as router.config has them, router_profile as its profile.
    router_redis: of the Redis that gateways share loads in.
    request_defaults: of sampling fields that a request leaves out, a JSON object that goes before
    the model's own defaults, as {"max_tokens": 512, "temperature": 0.3}.
    coalesce_ms: tokens of one answer that come so soon behind others go to the client together.
    The sizes and times are those of gateway.limits. tls_certificate: PEM; empty: plain HTTP.
    tls_client_ca: PEM; empty: clients need no certificate, see gateway/client_certificate.py.
    cors_origins: parted by commas, "*" for all; empty: none.
    otlp_endpoint: where spans go, see runtime/tracing.py; trace_share: of requests that bring no
    traceparent.
    processes: gateways of this host on one port; group_dir: folder where they find each other's
    metrics, group_number: which one this is, see gateway/group.py.
    drain_s: how long running streams may go on after SIGTERM. parent_pid: if set, this process
    ends when that one does.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int = 0
    served_model_name: str = ""
    control_address: str = "127.0.0.1:8090"
    cluster_token: str = ""
    max_body_bytes: int = 4 << 20
    max_prompt_tokens: int = 0
    max_choices: int = 128
    header_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    first_token_timeout_s: float = 0.0
    request_timeout_s: float = 0.0
    stall_timeout_s: float = 30.0
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tls_min_version: str = "1.2"
    cors_origins: str = ""
    ignore_unknown_fields: bool = False
    request_defaults: str = ""
    max_model_len: int = 0
    tenants_file: str = ""
    tenants_redis: str = ""
    usage_log: str = ""
    usage_log_bytes: int = 64 << 20
    policy: str = "predicted"
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS
    tpot_slo_ms: float = DEFAULT_TPOT_SLO_MS
    reject_ratio: float = -1.0
    hedge: float = 0.0
    hedge_min_ms: float = 200.0
    hedge_share: float = 0.05
    coalesce_ms: float = 5.0
    shadow_policies: str = ""
    shadow_share: float = 0.1
    router_redis: str = ""
    router_profile: str = ""
    trace_log: str = ""
    recording: str = ""
    drain_s: float = 30.0
    log_level: str = "info"
    otlp_endpoint: str = ""
    trace_share: float = 1.0
    processes: int = 1
    group_dir: str = ""
    group_number: int = 0
    parent_pid: int = 0

    @property
    def shares_port(self) -> bool:
        """Other gateways of this host listen on the same port."""
        return self.processes > 1

    @property
    def limits_redis(self) -> str:
        """Where gateways tell each other what tenants spend; empty: nowhere."""
        return self.tenants_redis or self.router_redis

    @property
    def num_limit_shares(self) -> int:
        """Processes that share a tenant's limits evenly, as they do not tell each other."""
        return 1 if self.limits_redis else self.processes

    @property
    def grpc_listen_port(self) -> int:
        """0: no gRPC."""
        if self.grpc_port:
            return max(0, self.grpc_port)
        return self.port + 1 if self.port else 0

    @property
    def limits(self) -> Limits:
        return Limits(
            max_body_bytes=self.max_body_bytes,
            max_prompt_tokens=self.max_prompt_tokens,
            max_choices=self.max_choices,
            header_timeout_s=self.header_timeout_s,
            body_timeout_s=self.body_timeout_s,
            first_token_timeout_s=self.first_token_timeout_s,
            request_timeout_s=self.request_timeout_s,
            stall_timeout_s=self.stall_timeout_s,
        )

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        return tuple(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())
