"""The bill of every tenant, over both pools: what all took is what the devices worked."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from baton.up_config import DEMO_MODEL
from gateway.tenants import key_digest
from profiles.catalog import dump, load_profile

NUM_PROMPT, NUM_OUTPUT = 600, 24
ASKED = {"acme": 8, "zeta": 4}  # requests of each tenant, all at once
STAGES = ("prefill", "decode")


@pytest.fixture(scope="module")
def cluster(
    start_cluster: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Modelled workers, whose steps last as long as a profile says."""
    folder = tmp_path_factory.mktemp("bill")
    lines = [
        line
        for line in dump(load_profile("llama-3.1-8b@h200")).splitlines()
        if not line.startswith(("load_s", "kv_tokens"))
    ]
    (folder / "timed.toml").write_text("\n".join([*lines, "load_s = 0.1", "kv_tokens = 20000"]))
    tenants = [
        f'[[tenants]]\nname = "{name}"\nkey_sha256 = ["{key_digest(name)}"]\n' for name in ASKED
    ]
    (folder / "tenants.toml").write_text("".join(tenants))
    flags = ["--profile", str(folder / "timed.toml"), "--tenants-file", folder / "tenants.toml"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATON_USAGE_LOG", str(folder / "usage.jsonl"))
        started = start_cluster(DEMO_MODEL, *map(str, flags))
    started.usage_log = folder / "usage.jsonl"
    _wait_for_both_pools(started)
    yield started
    started.stop()


def _wait_for_both_pools(cluster: Any) -> None:
    """An answer that begins where it cannot stay is moved, and tokens under way then are lost."""
    deadline = time.monotonic() + 60
    pools = [f'baton_router_workers{{role="{role}"}} 1.0' for role in STAGES]
    while not all(line in httpx.get(f"{cluster.url}/metrics", timeout=60).text for line in pools):
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def ask(client: httpx.AsyncClient, tenant: str, number: int, num_events: int = 0) -> None:
    """num_events: of the stream, after which the client leaves; 0: it stays to the end."""
    first = number + 100 * list(ASKED).index(tenant)
    body = {
        "model": "timed", "prompt": [5 + first + i for i in range(NUM_PROMPT)], "stream": True,
        "max_tokens": NUM_OUTPUT, "ignore_eos": True,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {tenant}"}
    async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        num_come = 0
        async for line in answer.aiter_lines():
            num_come += line.startswith("data: {")
            if num_come == num_events:
                return


async def worked_s(cluster: Any) -> float:
    """By the workers' own reports, once they have computed all that was asked for and rest."""
    count = sum(ASKED.values())
    async with asyncio.timeout(60):
        while True:
            status = await asyncio.to_thread(cluster.status)
            reports = [worker.report for worker in status.workers]
            totals = [report.totals for report in reports]
            is_all = sum(total.num_prefill_tokens for total in totals) >= count * NUM_PROMPT
            # A prompt's end may be computed again where its first token is decoded.
            decoded = sum(total.num_decode_tokens for total in totals)
            is_all = is_all and decoded >= count * (NUM_OUTPUT - 2)
            if is_all and not any(report.has_work for report in reports):
                return sum(total.step_s for total in totals)
            await asyncio.sleep(0.2)


def log_lines(cluster: Any) -> list[dict[str, Any]]:
    """Of the requests that have ended."""
    text = cluster.usage_log.read_text() if cluster.usage_log.exists() else ""
    whole, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


async def billed(cluster: Any, num_asked: int) -> list[dict[str, Any]]:
    """The lines of the log, once each request has its own."""
    async with asyncio.timeout(60):
        while len(lines := log_lines(cluster)) < num_asked:
            await asyncio.sleep(0.05)
    return lines


def in_metrics(text: str, tenant: str, stage: str) -> float:
    head = f'baton_tenant_device_seconds_total{{stage="{stage}",tenant="{tenant}"}} '
    [line] = [line for line in text.splitlines() if line.startswith(head)]
    return float(line.removeprefix(head))


async def test_all_shares_of_all_tenants_add_up_to_the_time_that_the_devices_worked(
    cluster: Any,
) -> None:
    profile = load_profile("llama-3.1-8b@h200")
    async with httpx.AsyncClient(base_url=cluster.url, timeout=60) as client:
        async with asyncio.TaskGroup() as group:
            for tenant, count in ASKED.items():
                for number in range(count):
                    group.create_task(ask(client, tenant, number))
        lines = await billed(cluster, sum(ASKED.values()))
        metrics = (await client.get("/metrics")).text
    taken_s = await worked_s(cluster)
    shares_s = {name: {"prefill": 0.0, "decode": 0.0} for name in ASKED}
    for line in lines:
        for stage in STAGES:
            shares_s[line["tenant"]][stage] += line[f"{stage}_device_s"]
    billed_s = sum(sum(by_stage.values()) for by_stage in shares_s.values())
    assert billed_s == pytest.approx(taken_s, rel=1e-3)
    for name, count in ASKED.items():
        assert shares_s[name]["prefill"] >= count * profile.prefill_token_s * NUM_PROMPT
        for stage in STAGES:
            found = in_metrics(metrics, name, stage)
            assert found == pytest.approx(shares_s[name][stage], abs=1e-4)


async def test_a_client_that_leaves_pays_for_what_was_computed_until_then(cluster: Any) -> None:
    num_before = len(log_lines(cluster))
    async with httpx.AsyncClient(base_url=cluster.url, timeout=60) as client:
        await ask(client, "acme", 50, num_events=4)
        *_, line = await billed(cluster, num_before + 1)
    assert (line["outcome"], line["tenant"]) == ("disconnected", "acme")
    assert line["prefill_device_s"] > 0 and line["decode_device_s"] > 0
