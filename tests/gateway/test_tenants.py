"""API keys, limits per minute and salts, on a virtual clock and over HTTP."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.gate import Gate
from gateway.rate_limit import Bucket
from gateway.tenants import TenantFileError, key_digest, read_tenants
from router.output import OutputDelta
from runtime.clock import VirtualClock
from wire.block_hash import block_hashes

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hello, " * 20}]}
Start = Callable[..., Any]
AnswerOf = Callable[..., list[OutputDelta]]


def entry(name: str, *keys: str, **fields: object) -> str:
    digests = ", ".join(f'"{key_digest(key)}"' for key in keys)
    lines = [f"{field} = {value!r}" for field, value in fields.items()]
    return "\n".join(["[[tenants]]", f'name = "{name}"', f"key_sha256 = [{digests}]", *lines, ""])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tenants.toml"
    file.write_text(
        entry("acme", "key-a", "key-a2", requests_per_minute=3)
        + entry("zeta", "key-z", tokens_per_minute=200, highest_priority=0)
        + entry("free", "key-f")
    )
    return file


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def headers_of(key: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in bearer(key).items()]


# --- buckets ------------------------------------------------------------------------------------


@given(
    per_minute=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), max_size=40),
)
def test_a_bucket_never_lets_more_through_than_its_rate(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    clock = VirtualClock()
    bucket = Bucket(per_minute, clock)
    passed = 0
    for pause_s, amount in steps:
        clock.advance(pause_s)
        wait_s = bucket.wait_s(amount)
        if wait_s == 0 and amount <= per_minute:
            bucket.spend(amount)
            passed += amount
        elif wait_s:
            clock.advance(wait_s + 1e-6)
            assert bucket.wait_s(amount) == 0
        assert passed <= per_minute * (1 + clock.now() / 60) + 1e-6


def test_a_bucket_without_limit_never_waits() -> None:
    bucket = Bucket(0, VirtualClock())
    bucket.spend(10**9)
    assert bucket.wait_s(10**9) == 0


def test_a_lowered_limit_keeps_what_was_spent() -> None:
    bucket = Bucket(10, VirtualClock())
    bucket.spend(4)
    bucket.resize(5)
    assert bucket.level == pytest.approx(1)
    bucket.resize(0)
    assert bucket.wait_s(1) == 0


# --- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[tenants", "cannot be read"),
        ("", "tenants"),
        ("[[tenants]]\nname = 'a'\nkey_sha256 = ['xy']\n", "SHA-256"),
        ("[[tenants]]\nname = 'a'\nkey_sha256 = []\nkey = 'x'\n", "key"),
        (entry("a", "k") + entry("a", "l"), "twice"),
        (entry("a", "k") + entry("b", "k"), "twice"),
        (entry("", "k"), "empty"),
        (entry("a", "k", requests_per_minute="many"), "requests_per_minute"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "tenants.toml"
    file.write_text(text)
    with pytest.raises(TenantFileError, match=reason) as caught:
        read_tenants(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TenantFileError, match="cannot be read"):
        Gate(tmp_path / "none.toml", VirtualClock())


def rewrite(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_a_changed_file_counts_without_a_restart_and_a_broken_one_does_not(path: Path) -> None:
    clock = VirtualClock()
    gate = Gate(path, clock)
    gate.account(headers_of("key-a")).take_request()
    rewrite(path, entry("acme", "key-new", requests_per_minute=1))
    assert gate.account(headers_of("key-a")).tenant.name == "acme"  # not looked at yet
    clock.advance(1.5)
    with pytest.raises(ApiError, match="not known"):
        gate.account(headers_of("key-a"))
    account = gate.account(headers_of("key-new"))
    with pytest.raises(ApiError, match="1 requests per minute"):
        account.take_request()
    rewrite(path, "[[tenants")
    clock.advance(60)
    gate.account(headers_of("key-new")).take_request()


# --- over HTTP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_known_key_nobody_gets_an_answer(
    start_gateway: Start, answer_of: AnswerOf, path: Path, stream: bool
) -> None:
    gate = Gate(path, VirtualClock())
    async with start_gateway(lambda _: answer_of([300]), gate=gate) as gateway:
        post = gateway.client.post
        body = {**BODY, "stream": stream, "user": "x" * 20_000}
        for headers in (
            {},
            bearer("nobody"),
            {"authorization": "Basic key-a"},
            {"authorization": "Bearer"},
        ):
            response = await post(CHAT, json=body, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        for route in ("/v1/models", "/v1/models/tiny", "/debug/requests/x"):
            assert (await gateway.client.get(route)).status_code == 401
        response = await post("/tokenize", json={"prompt": "a"})
        assert response.status_code == 401
        for route in ("/livez", "/readyz", "/metrics", "/version"):
            assert (await gateway.client.get(route)).status_code == 200
        assert gateway.router.requests == []
        for headers in (bearer("key-f"), {"x-api-key": "key-f"}):
            assert (await post(CHAT, json=body, headers=headers)).status_code == 200


async def test_too_many_requests_get_429_and_when_to_come_back(
    start_gateway: Start, answer_of: AnswerOf, path: Path
) -> None:
    clock = VirtualClock()
    async with start_gateway(lambda _: answer_of([300]), gate=Gate(path, clock)) as gateway:
        client = openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1",
            api_key="key-a",
            max_retries=0,
            http_client=gateway.client,
        )
        for left in (2, 1, 0):
            raw = await client.chat.completions.with_raw_response.create(**BODY)
            assert raw.headers["x-ratelimit-limit-requests"] == "3"
            assert raw.headers["x-ratelimit-remaining-requests"] == str(left)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.with_options(api_key="key-a2").chat.completions.create(**BODY)
        assert caught.value.response.headers["retry-after"] == "20"
        assert caught.value.code == "rate_limit_exceeded"
        clock.advance(20.01)
        await client.chat.completions.create(**BODY)


@pytest.mark.parametrize("stream", [False, True])
async def test_prompt_and_answer_are_paid_from_the_minutes_tokens(
    start_gateway: Start, answer_of: AnswerOf, path: Path, stream: bool
) -> None:
    clock = VirtualClock()
    async with start_gateway(lambda _: answer_of([300] * 90), gate=Gate(path, clock)) as gateway:
        body = {**BODY, "stream": stream}
        first = await gateway.client.post(CHAT, json=body, headers=bearer("key-z"))
        assert first.status_code == 200
        num_prompt = len(gateway.router.requests[0].prompt_tokens)
        assert first.headers["x-ratelimit-remaining-tokens"] == str(200 - num_prompt)
        left = 200 - num_prompt - 90
        assert left < num_prompt
        second = await gateway.client.post(CHAT, json=body, headers=bearer("key-z"))
        assert second.status_code == 429
        wait_s = (num_prompt - left) * 60 / 200
        assert int(second.headers["retry-after"]) == -int(-wait_s // 1)
        clock.advance(wait_s + 0.01)
        third = await gateway.client.post(CHAT, json=body, headers=bearer("key-z"))
        assert third.status_code == 200


async def test_tenants_do_not_share_cached_blocks_whatever_salt_they_ask_for(
    start_gateway: Start, answer_of: AnswerOf, path: Path
) -> None:
    gate = Gate(path, VirtualClock())
    async with start_gateway(lambda _: answer_of([300]), gate=gate) as gateway:
        for key, salt in (("key-a", ""), ("key-z", ""), ("key-f", ""), ("key-f", "tenant:acme")):
            body = {**BODY, "cache_salt": salt}
            assert (
                await gateway.client.post(CHAT, json=body, headers=bearer(key))
            ).status_code == 200
        requests = gateway.router.requests
    assert len({request.block_hashes for request in requests}) == 4
    for request in requests:
        assert request.block_hashes == tuple(
            block_hashes(request.prompt_tokens, request.cache_salt)
        )
