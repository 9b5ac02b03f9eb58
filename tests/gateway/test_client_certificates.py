"""Mutual TLS over HTTP and gRPC, with certificates of two real authorities."""

import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from gateway.tls import server_context
from wire.gen import open_inference_pb2 as pb
from wire.gen import open_inference_pb2_grpc

HOST = "127.0.0.1"
PATH = "/v1/completions"
BODY = {"model": "tiny", "prompt": "x", "stream": True}


@dataclass(frozen=True)
class Authority:
    """ca: its own certificate. certificate, key: of a client (and server) that it has signed."""

    ca: Path
    certificate: Path
    key: Path


def openssl(*arguments: Any) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_authority(folder: Path) -> Authority:
    folder.mkdir()
    ca, ca_key = folder / "ca.pem", folder / "ca-key.pem"
    certificate, key, request = folder / "tls.pem", folder / "tls-key.pem", folder / "tls.csr"
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subject = ("-subj", f"/CN={folder.name}")
    openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", *subject)
    openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=client")
    openssl(
        *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
        *("-days", "2", "-out", certificate, "-extfile", extensions),
    )
    return Authority(ca, certificate, key)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authorities") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authorities") / "theirs")


@pytest.fixture
async def gateway(
    start_gateway: Callable[..., Any], answer_of: Callable[..., Any], ours: Authority
) -> AsyncIterator[Any]:
    tls = server_context(str(ours.certificate), str(ours.key), "1.2", str(ours.ca))
    origins = ("https://page.example",)
    async with start_gateway(lambda _: answer_of([300]), tls=tls, cors_origins=origins) as started:
        yield started


def client_of(gateway: Any, ours: Authority, shows: Authority | None = None) -> httpx.AsyncClient:
    """A client that trusts the server, and shows a certificate."""
    context = ssl.create_default_context(cafile=str(ours.ca))
    if shows is not None:
        context.load_cert_chain(shows.certificate, shows.key)
    return httpx.AsyncClient(base_url=f"https://{HOST}:{gateway.port}", verify=context, timeout=60)


async def test_a_client_with_a_certificate_of_the_authority_is_served(
    gateway: Any, ours: Authority
) -> None:
    async with client_of(gateway, ours, ours) as client:
        for _ in range(2):  # the second one on the connection of the first
            response = await client.post(PATH, json=BODY)
            assert response.status_code == 200
            assert response.text.endswith("data: [DONE]\n\n")
        assert (await client.get("/v1/models")).status_code == 200


async def test_a_client_without_a_certificate_sees_probes_and_metrics_alone(
    gateway: Any, ours: Authority
) -> None:
    async with client_of(gateway, ours) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
        asked = [
            await client.post(PATH, json=BODY),
            await client.get("/v1/models"),
            await client.get("/docs"),
            await client.get("/debug/requests"),
            await client.get("/livez/../v1/models"),
        ]
        for response in asked:
            assert response.status_code == 403
            assert response.json()["error"]["code"] == "client_certificate_required"
    assert not gateway.router.requests


async def test_a_browser_may_ask_whether_it_may_ask(gateway: Any, ours: Authority) -> None:
    headers = {"origin": "https://page.example", "access-control-request-method": "POST"}
    async with client_of(gateway, ours) as client:
        response = await client.options(PATH, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://page.example"


async def test_a_certificate_of_another_authority_ends_the_handshake(
    gateway: Any, ours: Authority, theirs: Authority
) -> None:
    async with client_of(gateway, ours, theirs) as client:
        with pytest.raises(httpx.TransportError):  # in TLS 1.3 known with the first answer
            await client.get("/livez")


async def test_grpc_lets_in_clients_of_the_authority_alone(
    start_gateway: Callable[..., Any], ours: Authority, theirs: Authority
) -> None:
    trusted = ours.ca.read_bytes()
    shown = [(who.key.read_bytes(), who.certificate.read_bytes()) for who in (ours, theirs)]
    tls = {"certificate": str(ours.certificate), "key": str(ours.key), "client_ca": str(ours.ca)}
    async with start_gateway(lambda _: []) as gateway, gateway.grpc_server(**tls) as port:
        for pair, is_let_in in ((shown[0], True), (shown[1], False), ((None, None), False)):
            credentials = grpc.ssl_channel_credentials(trusted, *pair)
            async with grpc.aio.secure_channel(f"{HOST}:{port}", credentials) as channel:
                stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
                if is_let_in:
                    assert (await stub.ServerLive(pb.ServerLiveRequest(), timeout=30)).live
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ServerLive(pb.ServerLiveRequest(), timeout=30)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_authority_that_cannot_be_used_is_named(ours: Authority, tmp_path: Path) -> None:
    files = str(ours.certificate), str(ours.key), "1.2"
    with pytest.raises(OSError, match="tls_client_ca .*nothing.pem: No such file"):
        server_context(*files, str(tmp_path / "nothing.pem"))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(OSError, match="tls_client_ca .*bad.pem: "):
        server_context(*files, str(tmp_path / "bad.pem"))
    with pytest.raises(OSError, match="tls_client_ca .*: no authority's certificate is in it"):
        server_context(*files, str(ours.certificate))
