"""gRPC behind TLS, and each of its statuses from the table that HTTP has."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway.gate import Gate
from gateway.tenants import key_digest
from router.output import OutputDelta
from runtime.clock import SystemClock
from wire.errors import BatonError, ErrorCode
from wire.gen import generate_pb2, generate_pb2_grpc, open_inference_pb2_grpc
from wire.gen import open_inference_pb2 as pb
from wire.messages import FinishReason

Start = Callable[..., Any]
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def make_certificate(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, Path]]:
    """make_certificate(name) gives a certificate that signs itself, and its key, both PEM."""
    folder = tmp_path_factory.mktemp("tls")

    def make(name: str) -> tuple[Path, Path]:
        path, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-keyout", key, "-out", path, "-days", "2", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        return path, key

    return make


def call_of(**fields: Any) -> generate_pb2.CompletionCall:
    return generate_pb2.CompletionCall(**{"model": "tiny", "text": "x", **fields})


async def generated(channel: grpc.aio.Channel, call: Any, metadata: Any = ()) -> str:
    stub = generate_pb2_grpc.GenerateStub(channel)
    events = [event async for event in stub.Generate(call, metadata=metadata, timeout=30)]
    return "".join(piece.text for event in events for piece in event.pieces)


@pytest.mark.parametrize("is_one_file", [False, True])
async def test_tls_is_spoken_to_those_who_trust_the_certificate_and_to_nobody_else(
    start_gateway: Start,
    answer_of: Callable[..., list[OutputDelta]],
    make_certificate: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
    is_one_file: bool,
) -> None:
    certificate, key = make_certificate("server")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    files = {"certificate": str(both)}
    if not is_one_file:
        files = {"certificate": str(certificate), "key": str(key)}
    trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
    stranger = grpc.ssl_channel_credentials(make_certificate("stranger")[0].read_bytes())
    async with (
        start_gateway(lambda _: answer_of([70, 71])) as gateway,
        gateway.grpc_server(**files) as port,
    ):
        async with grpc.aio.secure_channel(f"{HOST}:{port}", trusted) as channel:
            expected = gateway.services.model.tokenizer.decode([70, 71])
            assert await generated(channel, call_of()) == expected
            kserve = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await kserve.ServerReady(pb.ServerReadyRequest())).ready
        for other in (
            grpc.aio.secure_channel(f"{HOST}:{port}", stranger),
            grpc.aio.insecure_channel(f"{HOST}:{port}"),
        ):
            async with other:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await generated(other, call_of())
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(gateway.router.requests) == 1


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    def entry(name: str, more: str = "") -> str:
        return f'[[tenants]]\nname = "{name}"\nkey_sha256 = ["{key_digest(name)}"]\n{more}\n'

    file = tmp_path / "tenants.toml"
    others = 'models = ["another"]', "requests_per_minute = 1"
    file.write_text(entry("any") + entry("other", others[0]) + entry("poor", others[1]))
    gate = Gate(file, SystemClock())
    gate.account([(b"authorization", b"Bearer poor")]).take_request()
    return gate


def key(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {name}"),)


# What the router does, the call, the key, HTTP's status and gRPC's, the code, what the trailer has.
ROWS: list[tuple[Any, dict[str, Any], str, int, str, str, set[str]]] = [
    (None, {"temperature": 9.0}, "any", 400, "INVALID_ARGUMENT", "", {"baton-param"}),
    (None, {"max_tokens": 10**6}, "any", 400, "INVALID_ARGUMENT", "context_length_exceeded", set()),
    (None, {"regex": "(a"}, "any", 400, "INVALID_ARGUMENT", "invalid_grammar", {"baton-param"}),
    (None, {}, "nobody", 401, "UNAUTHENTICATED", "invalid_api_key", set()),
    (None, {}, "other", 403, "PERMISSION_DENIED", "model_not_allowed", set()),
    (None, {"model": "gpt"}, "any", 404, "NOT_FOUND", "model_not_found", {"baton-param"}),
    (None, {"text": "x" * 70_000}, "any", 413, "RESOURCE_EXHAUSTED", "", set()),
    (None, {}, "poor", 429, "RESOURCE_EXHAUSTED", "rate_limit_exceeded", {"retry-after"}),
    (ErrorCode.OVERLOADED, {}, "any", 429, "RESOURCE_EXHAUSTED", "overloaded", {"retry-after"}),
    (RuntimeError("a bug"), {}, "any", 500, "INTERNAL", "internal", set()),
    (ErrorCode.INTERNAL, {}, "any", 500, "INTERNAL", "internal", set()),
    (ErrorCode.UNAVAILABLE, {}, "any", 503, "UNAVAILABLE", "unavailable", {"retry-after"}),
    (ErrorCode.DRAINING, {}, "any", 503, "UNAVAILABLE", "draining", {"retry-after"}),
    (ErrorCode.WORKER_LOST, {}, "any", 503, "UNAVAILABLE", "worker_lost", {"retry-after"}),
    ("late", {}, "any", 504, "DEADLINE_EXCEEDED", "request_timeout", set()),
]


def script_of(failure: Any) -> Callable[[Any], list[Any]]:
    if failure == "late":
        return lambda _: [OutputDelta((70,)), asyncio.Event()]
    is_code = isinstance(failure, ErrorCode)
    return lambda _: [BatonError(failure, "no") if is_code else failure]


@pytest.mark.parametrize(("failure", "fields", "who", "http", "status", "code", "trailer"), ROWS)
async def test_a_failure_has_the_status_of_its_http_status_and_the_same_code(
    start_gateway: Start,
    gate: Gate,
    failure: Any,
    fields: dict[str, Any],
    who: str,
    http: int,
    status: str,
    code: str,
    trailer: set[str],
) -> None:
    limits = {"request_timeout_s": 0.2} if failure == "late" else {}
    async with (
        start_gateway(script_of(failure), gate=gate, **limits) as gateway,
        gateway.grpc_server() as port,
        grpc.aio.insecure_channel(f"{HOST}:{port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generated(channel, call_of(**fields), key(who))
        headers = dict(key(who))
        response = await gateway.client.post(
            "/v1/completions", json=as_http(fields), headers=headers
        )
        await gateway.until_idle()
    told = dict(caught.value.trailing_metadata() or ())  # type: ignore[call-overload]
    assert (response.status_code, caught.value.code().name) == (http, status)
    assert trailer <= set(told)
    error = response.json()["error"]
    if http != 413:  # gRPC itself refuses what is over its limit, and has no more to say
        assert told["baton-code"] == (error["code"] or "invalid_request")
    assert error["code"] == (code or error["code"])
    assert ("retry-after" in told) == ("retry-after" in response.headers)


def as_http(fields: dict[str, Any]) -> dict[str, Any]:
    """The same call as a body of /v1/completions."""
    body = {"model": "tiny", "prompt": "x", **fields}
    body["prompt"] = body.pop("text", "x")
    if "regex" in body:
        body["structured_outputs"] = {"regex": body.pop("regex")}
    return body


@pytest.mark.parametrize("ends_in_time", [True, False])
async def test_a_drain_lets_running_calls_end_and_takes_no_new_ones(
    start_gateway: Start, ends_in_time: bool
) -> None:
    gate = asyncio.Event()
    last = OutputDelta((71,), FinishReason.LENGTH)
    drain_s = 60.0 if ends_in_time else 0.2
    async with (
        start_gateway(lambda _: [OutputDelta((70,)), gate, last], drain_s=drain_s) as gateway,
        gateway.grpc_server(drain_s) as port,
        grpc.aio.insecure_channel(f"{HOST}:{port}") as channel,
    ):
        call = generate_pb2_grpc.GenerateStub(channel).Generate(call_of())
        assert (await call.read()).pieces
        gateway.stop.set()
        await refuses(port)
        if ends_in_time:
            gate.set()
            assert (await call.read()).pieces[0].finish_reason == "length"
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        told = dict(caught.value.trailing_metadata() or ())  # type: ignore[call-overload]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (told["baton-code"], told["retry-after"]) == ("draining", "1")


async def refuses(port: int) -> None:
    """Until a new client is sent away."""
    async with asyncio.timeout(30):
        while True:
            async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
                kserve = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
                try:
                    await kserve.ServerLive(pb.ServerLiveRequest(), timeout=20)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        return
                    # A call that is on its way while the server begins to stop.
                    assert error.code() is grpc.StatusCode.CANCELLED
            await asyncio.sleep(0.01)
