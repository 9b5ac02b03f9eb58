"""The gateway process's settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """model: a Hugging Face directory. served_model_name: empty means the directory's name.

    max_model_len: tokens of prompt and answer together, 0 means what the model allows.
    tenants_file: API keys and limits, see gateway/tenants.py; empty: everybody may use the server.
    policy: as router.policies.named takes it; its objectives are ttft_slo_ms, for prompts of up to
    2,000 tokens, and tpot_slo_ms.
    drain_s: how long running streams may go on after SIGTERM. parent_pid: if set, this process
    ends when that one does.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = ""
    control_address: str = "127.0.0.1:8090"
    cluster_token: str = ""
    max_body_bytes: int = 4 << 20
    body_timeout_s: float = 30.0
    max_model_len: int = 0
    tenants_file: str = ""
    policy: str = "uncached_tokens"
    ttft_slo_ms: float = 2000.0
    tpot_slo_ms: float = 50.0
    drain_s: float = 30.0
    log_level: str = "info"
    parent_pid: int = 0
