"""HTTPS servers: a certificate that is trusted, and one that is not."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loadtest.target import parse_target

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and its own certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [str(OPENSSL), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    cert.write_text(cert.read_text() + key.read_text())
    return cert


async def load_over_tls(tools: Any, certificate: Path) -> list[Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with tools.serving(lambda n, body: tools.answer([0.01, 0.01])) as plain:
        listener = await asyncio.start_server(plain.handle, "127.0.0.1", 0, ssl=context)
        port = listener.sockets[0].getsockname()[1]
        target = parse_target(f"https://127.0.0.1:{port}/v1")
        records: list[Any] = await tools.load(target, tools.singles([0.0, 0.05, 0.1]))
        listener.close()
    return records


async def test_a_trusted_server_is_loaded(
    tools: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    records = await load_over_tls(tools, certificate)
    assert [record.error for record in records] == [""] * 3
    assert [record.num_output for record in records] == [2] * 3


async def test_a_server_that_is_not_trusted_is_an_error_of_each_request(
    tools: Any, certificate: Path
) -> None:
    records = await load_over_tls(tools, certificate)
    assert all("cannot connect" in record.error for record in records)
    assert all("certificate" in record.error for record in records)
