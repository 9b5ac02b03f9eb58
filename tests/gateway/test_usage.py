"""Every request that ran is on a bill once: in the metrics and in the log."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.gate import Gate
from gateway.tenants import key_digest
from gateway.usage import MAX_TENANT_LABELS, UsageLog, UsageMeter, UsageRecord, Used
from router.output import OutputDelta, RequestTrace
from runtime.clock import SystemClock, VirtualClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason

Start = Callable[..., Any]
TRACE = RequestTrace(
    "remote", "prefill-0", "decode-0", 1, prefill_s=0.25, tpot_s=0.01,
    prefill_device_s=0.125, decode_device_s=0.0625,
)  # fmt: skip
RECORD = UsageRecord(1.0, "r", "acme", "chat", "tiny", "ok", 9, 4, 3, 0.1, 0.2, "p", "d")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    path = tmp_path / "tenants.toml"
    path.write_text(f'[[tenants]]\nname = "acme"\nkey_sha256 = ["{key_digest("k")}"]\n')
    return Gate(path, SystemClock())


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_one_line_with_its_tokens_and_stages(
    start_gateway: Start, gate: Gate, tmp_path: Path, stream: bool
) -> None:
    log = UsageLog(tmp_path / "usage.jsonl", 1 << 20, SystemClock())
    answer = [OutputDelta((300,)), OutputDelta((301, 302), FinishReason.LENGTH, 2, TRACE)]
    async with start_gateway(lambda _: answer, gate=gate, usage_log=log) as gateway:
        body = {"model": "tiny", "prompt": [300, 301, 302, 303], "stream": stream}
        headers = {"authorization": "Bearer k", "x-tenant": "rival", "x-baton-tenant": "rival"}
        response = await gateway.client.post("/v1/completions", json=body, headers=headers)
        assert response.status_code == 200
        await gateway.until_idle()
        [line] = lines(tmp_path / "usage.jsonl")
        for kind, number in (("prompt", 4), ("cached", 2), ("output", 3)):
            name = "baton_tenant_tokens_total"
            assert gateway.value(name, tenant="acme", kind=kind) == number
        name = "baton_tenant_stage_seconds_total"
        assert gateway.value(name, tenant="acme", stage="prefill") == 0.25
        assert gateway.value(name, tenant="acme", stage="decode") == pytest.approx(0.02)
        name = "baton_tenant_device_seconds_total"
        assert gateway.value(name, tenant="acme", stage="prefill") == 0.125
        assert gateway.value(name, tenant="acme", stage="decode") == 0.0625
        assert gateway.router.requests[0].terms.tenant == "acme"
    log.close()
    assert line.pop("time") > 0
    assert line.pop("request_id").startswith("cmpl")
    assert line == {
        "tenant": "acme", "endpoint": "completions", "model": "tiny", "outcome": "ok",
        "prompt_tokens": 4, "cached_tokens": 2, "output_tokens": 3,
        "prefill_s": 0.25, "decode_s": 0.02,
        "prefill_worker": "prefill-0", "decode_worker": "decode-0",
        "prefill_device_s": 0.125, "decode_device_s": 0.0625,
    }  # fmt: skip


async def test_a_failed_answer_is_billed_for_what_was_sent_and_a_refused_one_not_at_all(
    start_gateway: Start, tmp_path: Path
) -> None:
    log = UsageLog(tmp_path / "usage.jsonl", 1 << 20, SystemClock())
    lost = BatonError(ErrorCode.WORKER_LOST, "lost")
    async with start_gateway(lambda _: [OutputDelta((300,)), lost], usage_log=log) as gateway:
        body = {"model": "tiny", "prompt": "x", "stream": True}
        await gateway.client.post("/v1/completions", json=body)
        await gateway.client.post("/v1/completions", json={**body, "top_p": 7})
        await gateway.until_idle()
    log.close()
    [line] = lines(tmp_path / "usage.jsonl")
    assert (line["outcome"], line["output_tokens"]) == ("worker_lost", 1)


def test_a_full_log_is_renamed_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    log = UsageLog(path, 1000, SystemClock())
    for number in range(50):
        log.write(UsageRecord(number, f"r{number}", *("",) * 4, 1, 0, 1, 0.0, 0.0, "", ""))
    log.close()
    files = sorted(tmp_path.glob("usage.jsonl.*")) + [path]
    assert len(files) > 3
    assert all(file.stat().st_size < 1300 for file in files)
    ids = [line["request_id"] for file in files for line in lines(file)]
    assert ids == [f"r{number}" for number in range(50)]


def test_the_log_goes_on_behind_what_an_earlier_process_wrote(tmp_path: Path) -> None:
    for _ in range(2):
        log = UsageLog(tmp_path / "usage.jsonl", 1 << 20, VirtualClock())
        log.write(RECORD)
        log.close()
    assert len(lines(tmp_path / "usage.jsonl")) == 2


def test_the_tenants_in_the_metrics_are_bounded() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    meter = UsageMeter(metrics, None)
    for number in range(MAX_TENANT_LABELS + 50):
        meter.take(f"t{number}", "chat", "ok", Used("r", "m", 1, 0, 1, []))
    shown = [
        line for line in metrics.exposition().decode().splitlines()
        if line.startswith("baton_tenant_requests_total{")
    ]  # fmt: skip
    assert len(shown) == MAX_TENANT_LABELS + 1
    assert 'baton_tenant_requests_total{tenant="others"} 50.0' in shown
