"""Who a client is follows from its API key alone, whatever its headers and its body say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.gate import Gate
from gateway.tenants import key_digest
from router.output import OutputDelta
from runtime.clock import SystemClock
from wire.gen import generate_pb2, generate_pb2_grpc

CLAIMS = {
    "x-tenant": "rival", "x-tenant-id": "rival", "x-baton-tenant": "rival", "tenant": "rival",
    "x-baton-weight": "100", "x-weight": "100", "x-baton-priority": "-9", "x-priority": "-9",
    "x-baton-cache-salt": "tenant:rival", "x-user": "rival", "x-forwarded-user": "rival",
    "x-remote-user": "rival", "x-auth-request-user": "rival", "from": "rival@example.com",
    "openai-organization": "rival", "openai-project": "rival", "x-forwarded-for": "10.0.0.1",
}  # fmt: skip
BODY = {"model": "tiny", "prompt": "x", "seed": 1}
SAID = {"user": "rival", "metadata": {"tenant": "rival"}}
Start = Callable[..., Any]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    entries = [
        f'[[tenants]]\nname = "{name}"\nkey_sha256 = ["{key_digest(name)}"]\nweight = {weight}\n'
        for name, weight in (("acme", 2.0), ("rival", 9.0))
    ]
    file = tmp_path / "tenants.toml"
    file.write_text("".join(entries))
    return Gate(file, SystemClock())


def identity(request: Any) -> tuple[Any, ...]:
    return request.terms, request.cache_salt, request.priority, request.block_hashes


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_keys", [True, False])
async def test_what_a_client_says_of_itself_over_http_changes_nothing(
    start_gateway: Start,
    answer_of: Callable[..., list[OutputDelta]],
    gate: Gate,
    stream: bool,
    has_keys: bool,
) -> None:
    options = {"gate": gate} if has_keys else {}
    key = {"authorization": "Bearer acme"}
    async with start_gateway(lambda _: answer_of([300]), **options) as gateway:
        for headers, said in (({}, {}), (CLAIMS, {}), (CLAIMS, SAID)):
            body = {**BODY, "stream": stream, **said}
            response = await gateway.client.post(
                "/v1/completions", json=body, headers={**key, **headers}
            )
            assert response.status_code == 200
            assert "rival" not in str(response.headers)
        plain, *others = map(identity, gateway.router.requests)
    assert all(other == plain for other in others)
    assert plain[0].tenant == ("acme" if has_keys else "")
    assert plain[0].weight == (2.0 if has_keys else 1.0)


async def test_what_a_client_says_of_itself_over_grpc_changes_nothing(
    start_gateway: Start, answer_of: Callable[..., list[OutputDelta]], gate: Gate
) -> None:
    async with start_gateway(lambda _: answer_of([300]), gate=gate) as gateway:
        async with gateway.grpc_channel() as channel:
            stub = generate_pb2_grpc.GenerateStub(channel)
            call = generate_pb2.CompletionCall(model="tiny", text="x", seed=1)
            for claims in ({}, CLAIMS):
                metadata = (("x-api-key", "acme"), *claims.items())
                assert [event async for event in stub.Generate(call, metadata=metadata)]
        plain, claimed = map(identity, gateway.router.requests)
    assert plain == claimed
    assert plain[0].tenant == "acme"


async def test_a_key_of_nobody_is_refused_whoever_the_headers_name(
    start_gateway: Start, gate: Gate
) -> None:
    async with start_gateway(lambda _: [], gate=gate) as gateway:
        for key in ({}, {"authorization": "Bearer rival2"}, {"x-api-key": ""}):
            response = await gateway.client.post(
                "/v1/completions", json=BODY, headers={**CLAIMS, **key}
            )
            assert response.status_code == 401
        assert gateway.router.requests == []
