"""What a tenant's key is for: its models and its priorities."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.gate import Gate
from runtime.clock import SystemClock

KEY = {"authorization": "Bearer secret"}
BODY = {"model": "tiny", "prompt": "x", "max_tokens": 3}


def gate_with(folder: Path, extra: str) -> Gate:
    digest = hashlib.sha256(b"secret").hexdigest()
    file = folder / "tenants.toml"
    file.write_text(f'[[tenants]]\nname = "acme"\nkey_sha256 = ["{digest}"]\n{extra}\n')
    return Gate(file, SystemClock())


async def test_a_key_for_other_models_is_refused_with_403(
    start_gateway: Callable[..., Any], answer_of: Callable[..., Any], tmp_path: Path
) -> None:
    gate = gate_with(tmp_path, 'models = ["other"]')
    async with start_gateway(lambda _: answer_of([70]), gate=gate) as gateway:
        reply = await gateway.client.post("/v1/completions", json=BODY, headers=KEY)
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "model_not_allowed"
        assert not gateway.router.requests


@pytest.mark.parametrize(("priority", "status"), [(-1, 400), (0, 400), (1, 400), (2, 200)])
async def test_a_tenant_has_a_highest_priority(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., Any],
    tmp_path: Path,
    priority: int,
    status: int,
) -> None:
    gate = gate_with(tmp_path, "highest_priority = 2")
    async with start_gateway(lambda _: answer_of([70]), gate=gate) as gateway:
        body = {**BODY, "priority": priority}
        reply = await gateway.client.post("/v1/completions", json=body, headers=KEY)
        assert reply.status_code == status, reply.text
        if status == 400:
            assert reply.json()["error"]["param"] == "priority"


@pytest.mark.parametrize(("ceiling", "own"), [(2, 2), (-3, 0)])
async def test_requests_without_a_priority_get_the_tenants_own(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., Any],
    tmp_path: Path,
    ceiling: int,
    own: int,
) -> None:
    gate = gate_with(tmp_path, f"highest_priority = {ceiling}")
    async with start_gateway(lambda _: answer_of([70]), gate=gate) as gateway:
        for given in ({}, {"priority": None}):
            body = {**BODY, **given}
            reply = await gateway.client.post("/v1/completions", json=body, headers=KEY)
            assert reply.status_code == 200, reply.text
            assert gateway.router.requests[-1].priority == own
