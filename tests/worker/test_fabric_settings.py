"""What a worker's settings ask of the fabric."""

import pytest

from worker.config import WorkerConfig
from worker.fabric import transfer_config

FILES = {"kv_tls_ca": "ca.pem", "kv_tls_cert": "cert.pem", "kv_tls_key": "key.pem"}


def test_without_files_connections_are_plain() -> None:
    assert transfer_config(WorkerConfig("m", lease_s=7.0)).tls is None
    assert transfer_config(WorkerConfig("m", lease_s=7.0)).lease_s == 7.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kv_tls_cert": "cert.pem"}, "needs kv_tls_ca, kv_tls_cert and kv_tls_key"),
        ({**FILES, "transport": "nixl"}, "nixl does not encrypt"),
        ({**FILES, "transport": "ucx"}, "ucx does not encrypt"),
        (FILES, "authority 'ca.pem' cannot be used"),
    ],
)
def test_settings_that_cannot_be_met_are_named(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        transfer_config(WorkerConfig("m", **settings))  # type: ignore[arg-type]
