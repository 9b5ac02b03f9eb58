"""The settings of one worker process."""

from dataclasses import dataclass

from wire.messages import Role


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Zeros and empty strings ask for the default named beside the field."""

    model: str  # a Hugging Face directory
    role: Role = Role.DECODE
    served_model_name: str = ""  # the directory's name
    profile: str = ""  # a real engine
    worker_id: str = ""  # role and process id
    host: str = "127.0.0.1"
    port: int = 0  # a free one
    advertise_host: str = ""  # host
    fabric_port: int = 0  # a free one
    control_address: str = "127.0.0.1:8090"
    cluster_token: str = ""
    kv_memory: str = "1GiB"
    host_kv_memory: str = "0"  # no second tier
    dtype: str = "auto"  # the checkpoint's
    kv_dtype: str = "auto"  # the model's
    device: str = "auto"  # cuda where there is one, else cpu
    hardware: str = ""  # the profile's device, else the GPU's own name
    max_model_len: int = 0  # the model's
    max_batch_tokens: int = 0  # by role and device: see batch_tokens
    max_num_seqs: int = 64
    speculate: str = "off"
    draft_model: str = ""  # with speculate = "model" alone
    max_drafts: int = 4
    threads: int = 0  # one a core
    tensor_parallel: int = 1
    transport: str = "auto"
    kv_device_path: str = "host"
    verify_share: float = 0.05
    wire_format: str = "auto"
    expected_bytes_s: float = 5e8
    tcp_connections: int = 1
    kv_tls_ca: str = ""  # KV connections without TLS
    kv_tls_cert: str = ""  # with kv_tls_ca alone
    kv_tls_key: str = ""  # with kv_tls_ca alone
    lease_s: float = 30.0
    drain_timeout_s: float = 30.0
    move_above: float = 0.0  # never: a share of the KV pool from which requests are moved away
    metrics_port: int = 0  # none
    otlp_endpoint: str = ""  # no spans
    parent_pid: int = 0  # none
    log_level: str = "info"

    def batch_tokens(self, on_gpu: bool) -> int:
        """The chunk budget of a step: decode workers keep it small, for their residents' sake."""
        if self.max_batch_tokens:
            return self.max_batch_tokens
        if on_gpu:
            return 4096 if self.role is Role.PREFILL else 1024
        return 512 if self.role is Role.PREFILL else 256
