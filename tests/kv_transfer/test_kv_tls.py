"""TLS on the fabric's TCP connections: who gets in, what goes through, and what is refused."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.errors import FailReason
from kv_transfer.tls import Tls

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")

BLOCKS = list(range(40))
NUM_TOKENS = 640


def openssl(*words: object) -> None:
    subprocess.run([str(OPENSSL), *map(str, words)], check=True, capture_output=True)


def issue(folder: Path) -> Tls:
    """A new authority and a worker's certificate of it."""
    folder.mkdir()
    ca, ca_key, cert, key, request = (
        folder / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem", "request.pem")
    )
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-days", 2, "-subj", "/CN=ca", "-keyout", ca_key, "-out", ca)
    openssl("req", *curve, "-subj", "/CN=worker", "-keyout", key, "-out", request)
    openssl(
        *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
        *("-days", 2, "-out", cert),
    )
    return Tls.load(str(ca), str(cert), str(key))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return issue(tmp_path_factory.mktemp("tls") / "cluster")


@pytest.fixture(scope="module")
def foreign_tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return issue(tmp_path_factory.mktemp("tls") / "other")


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("piece_bytes", [1 << 14, 8 << 20])
def test_blocks_arrive_whole_over_tls(make_rig, until, tls, connections, piece_bytes):
    config = TransferConfig(
        tls=tls, tcp_connections=connections, piece_bytes=piece_bytes, verify_share=1.0
    )
    rig = make_rig(config=config)
    target = BLOCKS[::-1]
    handle = rig.exporter.publish(1, BLOCKS, NUM_TOKENS, 32)
    _, results = rig.begin(handle, target)
    until(lambda: rig.target.view[5, target[1]].any())
    rig.exporter.complete(1, (1,))
    result = results.get(timeout=20)
    assert (result.ok, result.transport) == (True, "tcp"), result.error
    rig.assert_copied(BLOCKS, target)
    for export_id in range(2, 12):
        assert rig.pull(rig.publish_whole(export_id, BLOCKS, NUM_TOKENS), target).ok


@pytest.mark.parametrize("transport", ["nixl", "ucx"])
def test_connections_of_the_other_transports_are_under_tls_too(make_rig, tls, transport):
    rig = make_rig(transport=transport, config=TransferConfig(tls=tls))
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (result.ok, result.transport) == (True, transport), result.error
    rig.assert_copied(BLOCKS, BLOCKS)


def test_packed_blocks_arrive_whole_over_tls(make_rig, tls):
    rig = make_rig(dtype="bfloat16", config=TransferConfig(tls=tls, wire_format="packed"))
    assert rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS).ok
    rig.assert_copied(BLOCKS, BLOCKS)


def test_a_reader_of_another_authority_is_refused(make_rig, tls, foreign_tls):
    rig = make_rig(
        config=TransferConfig(tls=tls),
        reader_config=TransferConfig(tls=replace(tls, reader=foreign_tls.reader)),
    )
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (result.ok, result.reason) == (False, FailReason.NOT_A_MEMBER)
    assert "TLS" in result.error
    assert not rig.target.view.any()


def test_the_secret_is_asked_for_behind_the_certificate(make_rig, tls):
    rig = make_rig(config=TransferConfig(tls=tls), reader_secret=b"another secret")
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (result.ok, result.reason) == (False, FailReason.NOT_A_MEMBER)
    assert "secret" in result.error


@pytest.mark.parametrize("who", ["source", "reader"])
def test_one_side_without_a_certificate_is_told_so(make_rig, tls, who):
    plain, secured = TransferConfig(), TransferConfig(tls=tls)
    configs = (secured, plain) if who == "source" else (plain, secured)
    rig = make_rig(config=configs[0], reader_config=configs[1])
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS)
    assert (result.ok, result.reason) == (False, FailReason.NOT_A_MEMBER)
    assert "no certificate" in result.error


def test_a_reader_that_shows_no_certificate_is_refused(make_rig, tls):
    rig = make_rig(config=TransferConfig(tls=tls))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((rig.address.host, rig.address.port), 30.0) as sock,
        context.wrap_socket(sock) as secured,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"),
    ):
        secured.recv(1)


def test_plain_and_broken_bytes_end_their_connection_alone(make_rig, tls):
    rig = make_rig(config=TransferConfig(tls=tls, connect_s=1.5))
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 100):
        with socket.create_connection((rig.address.host, rig.address.port), 30.0) as sock:
            sock.sendall(data)
            try:
                while sock.recv(4096):
                    pass  # an alert
            except ConnectionResetError:
                pass
    assert rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS).ok


def test_a_source_that_closes_does_not_wait_for_a_handshake_under_way(make_rig, tls):
    rig = make_rig(config=TransferConfig(tls=tls, connect_s=600.0))
    with socket.create_connection((rig.address.host, rig.address.port), 30.0) as sock:
        assert rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), BLOCKS).ok  # accepted behind it
        rig.exporter.close()
        assert sock.recv(1) == b""


@pytest.mark.parametrize("missing", ["ca", "cert"])
def test_a_file_that_cannot_be_used_is_named(tmp_path, missing):
    files = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    if missing == "cert":
        issue(tmp_path / "made")
        files["ca"] = str(tmp_path / "made" / "ca.pem")
    load: Callable[..., Tls] = Tls.load
    with pytest.raises(ValueError, match=files[missing]):
        load(**files)
