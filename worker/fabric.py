"""The fabric's settings, as a worker's settings ask for them."""

from kv_transfer.config import TransferConfig
from kv_transfer.tls import Tls
from worker.config import WorkerConfig

_UNENCRYPTED = ("nixl", "ucx")


def transfer_config(config: WorkerConfig) -> TransferConfig:
    """Raises ValueError for TLS files that cannot be used, or that the transport cannot use."""
    return TransferConfig(
        transport=config.transport,
        lease_s=config.lease_s,
        verify_share=config.verify_share,
        wire_format=config.wire_format,
        expected_bytes_s=config.expected_bytes_s,
        tls=_tls(config),
    )


def _tls(config: WorkerConfig) -> Tls | None:
    files = (config.kv_tls_ca, config.kv_tls_cert, config.kv_tls_key)
    if not any(files):
        return None
    if not all(files):
        raise ValueError("TLS of KV connections needs kv_tls_ca, kv_tls_cert and kv_tls_key")
    if config.transport in _UNENCRYPTED:
        text = "does not encrypt KV; with kv_tls_ca the transport is auto, shm or tcp"
        raise ValueError(f"the transport {config.transport} {text}")
    return Tls.load(*files)
