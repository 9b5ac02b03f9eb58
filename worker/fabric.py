"""The fabric's settings, as a worker's settings ask for them."""

import math

from kv_transfer.config import TransferConfig
from kv_transfer.pace import SETTINGS
from kv_transfer.tls import Tls
from kv_transfer.transports.registry import AUTO, DEVICE_TRANSPORTS, TRANSPORTS
from worker.config import WorkerConfig

_UNENCRYPTED = ("nixl", "ucx")
_LEAST_LEASE_S = 1.0  # two heartbeats
_MAX_CONNECTIONS = 16
_DEVICE_PIECE_BYTES = 32 << 20  # of which a GPU moves many in the time of one of Python's turns
_DEVICE_PATHS = ("host", "direct")


def transfer_config(config: WorkerConfig) -> TransferConfig:
    """Raises ValueError for a setting that is out of its bounds, and for TLS files that cannot be
    used, or that the transport cannot use."""
    _check_names(config)
    _check_numbers(config)
    is_direct = config.kv_device_path == "direct"
    return TransferConfig(
        transport=config.transport,
        lease_s=config.lease_s,
        verify_share=config.verify_share,
        wire_format=config.wire_format,
        expected_bytes_s=config.expected_bytes_s,
        tcp_connections=config.tcp_connections,
        piece_bytes=_DEVICE_PIECE_BYTES if is_direct else TransferConfig().piece_bytes,
        device_path=config.kv_device_path,
        tls=_tls(config),
    )


def _check_names(config: WorkerConfig) -> None:
    for name, given, known in (
        ("transport", config.transport, (AUTO, *TRANSPORTS)),
        ("wire_format", config.wire_format, SETTINGS),
        ("kv_device_path", config.kv_device_path, _DEVICE_PATHS),
    ):
        if given not in known:
            raise ValueError(f"{name} {given!r} is not one of {', '.join(known)}")
    is_direct = config.kv_device_path == "direct"
    if is_direct and config.transport not in (AUTO, *DEVICE_TRANSPORTS):
        known_ones = ", ".join((AUTO, *DEVICE_TRANSPORTS))
        text = f"a GPU's memory; with kv_device_path direct it is one of {known_ones}"
        raise ValueError(f"the transport {config.transport} does not reach {text}")
    if config.transport == "cuda_ipc" and not is_direct:
        raise ValueError("the transport cuda_ipc needs kv_device_path direct")


def _check_numbers(config: WorkerConfig) -> None:
    """Written so that NaN is refused too."""
    if not 0.0 <= config.verify_share <= 1.0:
        raise ValueError(f"verify_share must be 0 to 1, is {config.verify_share:g}")
    if not 0.0 < config.expected_bytes_s < math.inf:
        text = "must be above 0 bytes a second"
        raise ValueError(f"expected_bytes_s {text}, is {config.expected_bytes_s:g}")
    if not _LEAST_LEASE_S <= config.lease_s < math.inf:
        raise ValueError(f"lease_s must be at least {_LEAST_LEASE_S:g} s, is {config.lease_s:g}")
    if not 1 <= config.tcp_connections <= _MAX_CONNECTIONS:
        text = f"must be 1 to {_MAX_CONNECTIONS}"
        raise ValueError(f"tcp_connections {text}, is {config.tcp_connections}")


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
