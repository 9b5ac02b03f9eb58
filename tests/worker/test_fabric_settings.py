"""What a worker's settings ask of the fabric."""

import pytest

from worker.config import WorkerConfig
from worker.fabric import transfer_config

FILES = {"kv_tls_ca": "ca.pem", "kv_tls_cert": "cert.pem", "kv_tls_key": "key.pem"}


def test_without_files_connections_are_plain() -> None:
    assert transfer_config(WorkerConfig("m", lease_s=7.0)).tls is None
    assert transfer_config(WorkerConfig("m", lease_s=7.0)).lease_s == 7.0


def test_what_a_worker_is_told_reaches_the_fabric() -> None:
    settings = {"transport": "tcp", "wire_format": "packed", "verify_share": 1.0, "lease_s": 1.0}
    numbers = {"expected_bytes_s": 1e6, "tcp_connections": 4}
    config = transfer_config(WorkerConfig("m", **settings, **numbers))  # type: ignore[arg-type]
    assert all(getattr(config, name) == value for name, value in {**settings, **numbers}.items())


def test_a_direct_path_takes_larger_pieces() -> None:
    host, direct = (
        transfer_config(WorkerConfig("m", kv_device_path=p)) for p in ("host", "direct")
    )
    assert (host.is_direct, direct.is_direct) == (False, True)
    assert host.piece_bytes == 8 << 20 < direct.piece_bytes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kv_tls_cert": "cert.pem"}, "needs kv_tls_ca, kv_tls_cert and kv_tls_key"),
        ({**FILES, "transport": "nixl"}, "nixl does not encrypt"),
        ({**FILES, "transport": "ucx"}, "ucx does not encrypt"),
        (FILES, "authority 'ca.pem' cannot be used"),
        ({"transport": "rdma"}, "transport 'rdma' is not one of auto, shm, tcp, nixl, ucx"),
        ({"transport": "cuda_ipc"}, "the transport cuda_ipc needs kv_device_path direct"),
        ({"kv_device_path": "gpu"}, "kv_device_path 'gpu' is not one of host, direct"),
        (
            {"kv_device_path": "direct", "transport": "tcp"},
            "the transport tcp does not reach a GPU's memory; with kv_device_path direct it is one "
            "of auto, cuda_ipc, nixl",
        ),
        ({"wire_format": "zip"}, "wire_format 'zip' is not one of as_is, auto"),
        ({"verify_share": 1.5}, "verify_share must be 0 to 1, is 1.5"),
        ({"verify_share": float("nan")}, "verify_share must be 0 to 1, is nan"),
        ({"expected_bytes_s": 0.0}, "expected_bytes_s must be above 0 bytes a second, is 0"),
        ({"lease_s": 0.5}, "lease_s must be at least 1 s, is 0.5"),
        ({"tcp_connections": 0}, "tcp_connections must be 1 to 16, is 0"),
        ({"tcp_connections": 17}, "tcp_connections must be 1 to 16, is 17"),
    ],
)
def test_settings_that_cannot_be_met_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        transfer_config(WorkerConfig("m", **settings))  # type: ignore[arg-type]
