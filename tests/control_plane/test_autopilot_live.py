"""The whole control plane: beats and a gateway's metrics in, a flip order out."""

import asyncio
from pathlib import Path

import pytest

from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from router.answer_meter import AnswerMeter
from router.output import RequestTrace
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from runtime.metrics_server import MetricsServer
from runtime.settings import SettingsError
from wire.cluster import ControlOrder, Fingerprint, OrderKind, WorkerBeat, WorkerInfo
from wire.kv import FabricAddress
from wire.messages import Role, StepTotals, WorkerReport

PLANNER = """
[planner]
tick_s = 0.2
can_scale = false
flip_cooldown_s = 0
hardware = [{name = "default", profile = "llama-3.1-8b@h200"}]
"""
# A long prompt: 0.65 s of an H200, so that ten a second need seven prefill workers.
LONG = RequestTrace(
    kind="remote",
    prefill_worker="prefill-0",
    decode_worker="decode-0",
    attempts=1,
    ttft_s=1.0,
    tpot_s=0.01,
    num_prompt_tokens=18_000,
    num_output_tokens=20,
    ttft_slo_s=2.0,
    tpot_slo_s=0.05,
)


def beat(worker_id: str, role: Role) -> WorkerBeat:
    info = WorkerInfo(
        worker_id,
        1,
        role,
        "127.0.0.1:7000",
        FabricAddress("127.0.0.1", 7001, "host", "", ("tcp",)),
        Fingerprint("model", "r1", "bfloat16", 16, "L2H2B16D16:bfloat16"),
        20_000,
        50_000,
    )
    report = WorkerReport(role=role, num_blocks=50_000, num_free_blocks=50_000, totals=StepTotals())
    return WorkerBeat(info, report)


async def test_a_pressed_pool_gets_a_worker_by_an_order(tmp_path: Path) -> None:
    file = tmp_path / "planner.toml"
    file.write_text(PLANNER)
    metrics = Metrics(GATEWAY_METRICS)
    gateway = MetricsServer("127.0.0.1", 0, metrics.exposition)
    gateway.start()
    config = ControlConfig(
        port=0,
        http_port=-1,
        plan="act",
        planner_file=str(file),
        gateway_metrics=f"http://127.0.0.1:{gateway.port}/metrics",
    )
    server = ControlServer(config, SystemClock())
    await server.start()
    try:
        orders = [asyncio.create_task(_flip_of(server, f"decode-{number}")) for number in range(3)]
        feeding = asyncio.create_task(_feed(server, metrics))
        done, _ = await asyncio.wait(orders, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        feeding.cancel()
        assert {task.result() for task in done} == {ControlOrder(OrderKind.FLIP, Role.PREFILL)}
        for task in orders:
            task.cancel()
    finally:
        await server.stop()
        gateway.stop()


async def _flip_of(server: ControlServer, worker_id: str) -> ControlOrder:
    while worker_id not in server.serving():
        await asyncio.sleep(0.02)
    return await server.registry.next_order(worker_id, 1)


async def _feed(server: ControlServer, metrics: Metrics) -> None:
    """One prefill and three decode workers, and about ten long prompts a second."""
    meter = AnswerMeter(metrics)
    while True:
        server.registry.beat(beat("prefill-0", Role.PREFILL))
        for number in range(3):
            server.registry.beat(beat(f"decode-{number}", Role.DECODE))
        metrics.counter("baton_requests_accepted_total").inc()
        meter.began(LONG.num_prompt_tokens, 0)
        meter.ended(LONG)
        await asyncio.sleep(0.1)


def test_the_settings_say_whether_an_autopilot_runs() -> None:
    assert ControlServer(ControlConfig(), SystemClock()).plane is not None
    with pytest.raises(SettingsError, match="'maybe' is not one of"):
        ControlServer(ControlConfig(plan="maybe"), SystemClock())
