"""Observations from real /metrics servers, a real Prometheus, and workers' reports."""

import asyncio
import itertools
import math
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.actuators.actuator import PoolStatus
from control_plane.observe.observer import Observer, Seen
from control_plane.observe.prometheus import PrometheusServer
from control_plane.observe.reading import ReadingError, TrafficSource
from control_plane.observe.scrape import Scrape
from control_plane.observe.window import CounterWindow, quantile
from control_plane.observe.workers import WorkerWatch
from control_plane.planner.config import PlannerConfig
from control_plane.planner.planner import Planner
from router.answer_meter import AnswerMeter
from router.output import RequestTrace
from runtime.clock import SystemClock, VirtualClock
from runtime.lifecycle import free_port
from runtime.metrics import GATEWAY_METRICS, Metrics
from runtime.metrics_server import MetricsServer
from wire.cluster import Fingerprint, WorkerInfo, WorkerStatus
from wire.kv import FabricAddress
from wire.messages import Role, StepTotals, WorkerReport

ANSWER = RequestTrace(
    kind="remote",
    prefill_worker="p",
    decode_worker="d",
    attempts=1,
    ttft_s=1.0,
    tpot_s=0.06,
    num_prompt_tokens=1000,
    num_cached_tokens=400,
    num_output_tokens=50,
    ttft_slo_s=2.0,
    tpot_slo_s=0.05,
)


class Gateway:
    """A process's metrics over HTTP, and answers that are counted in them."""

    def __init__(self) -> None:
        self.metrics = Metrics(GATEWAY_METRICS)
        self.server = MetricsServer("127.0.0.1", 0, self.metrics.exposition)
        self.url = f"http://127.0.0.1:{self.server.port}/metrics"
        self._numbers = itertools.count()
        self.server.start()

    def answer(self, count: int, trace: RequestTrace = ANSWER) -> None:
        meter = AnswerMeter(self.metrics)
        for _ in range(count):
            self.metrics.counter("baton_requests_accepted_total").inc()
            is_local = next(self._numbers) % 4 == 0
            meter.began(ANSWER.num_prompt_tokens, ANSWER.num_cached_tokens, is_local)
            meter.ended(trace)
            self.metrics.counter("baton_output_tokens_total").inc(ANSWER.num_output_tokens)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.server.stop()


async def test_a_scrape_gives_rates_and_length_moments(gateway: Gateway) -> None:
    clock = VirtualClock()
    source = Scrape([gateway.url], clock, window_s=10)
    gateway.answer(1)
    assert (await source.read()).traffic.requests_per_s == 0  # one reading tells no rate
    clock.advance(10)
    gateway.answer(200)
    for reason in ("shed", "predicted", "predicted"):
        gateway.metrics.counter("baton_admission_refused_total", reason=reason).inc()
    reading = await source.read()
    traffic = reading.traffic
    assert traffic.requests_per_s == pytest.approx(20)
    assert traffic.uncached_tokens == pytest.approx(600)
    assert traffic.uncached_squares == pytest.approx(360_000)
    assert traffic.uncached_pairs == pytest.approx(1000**2 - 400**2)
    assert traffic.local_share == pytest.approx(0.25)
    assert traffic.context_tokens == pytest.approx(1025)
    assert (traffic.ttft_slo_s, traffic.tpot_slo_s) == pytest.approx((2.0, 0.05))
    assert reading.output_tokens_per_s == pytest.approx(1000)
    assert reading.prefill.attainment == 1.0 and reading.decode.attainment == 0.0
    assert reading.prefill.ratio_p90 is not None and 0.25 < reading.prefill.ratio_p90 <= 0.5
    assert reading.decode.ratio_p90 is not None and 1.1 < reading.decode.ratio_p90 <= 1.25
    assert (reading.prefill.num_answers, reading.num_refused) == (200, 3)
    assert reading.goodput_per_s == 0.0  # none met both
    gateway.answer(100, replace(ANSWER, tpot_s=0.04))
    clock.advance(10)
    assert (await source.read()).goodput_per_s == pytest.approx(100 / 20)


async def test_a_gateway_that_is_gone_is_left_out_and_none_at_all_is_an_error(
    gateway: Gateway,
) -> None:
    gone = f"http://127.0.0.1:{free_port()}/metrics"
    assert await Scrape([gateway.url, gone], VirtualClock(), 10).read()
    with pytest.raises(ReadingError, match="cannot read"):
        await Scrape([gone], VirtualClock(), 10).read()
    with pytest.raises(ReadingError, match="answered 404"):
        await Scrape([gateway.url + "x"], VirtualClock(), 10).read()


async def test_what_cannot_be_read_grows_old_and_the_planner_holds(gateway: Gateway) -> None:
    clock = VirtualClock()
    observer = _observer(Scrape([gateway.url], clock, 10), clock)
    planner = Planner(PlannerConfig())
    assert (await observer.observe()).traffic is not None
    gateway.server.stop()
    gateway.server.start = gateway.server.stop = lambda: None  # type: ignore[method-assign]
    clock.advance(20)
    seen = await observer.observe()
    assert seen.traffic is not None and seen.traffic.age_s == pytest.approx(20)
    decision = planner.on_tick(seen)
    assert decision.holds and "20 s old" in decision.alarms[0]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=2, max_size=30))
def test_a_restart_loses_no_growth_that_was_seen(steps: list[tuple[int, bool]]) -> None:
    window, count, grown = CounterWindow(1e9), 0, 0
    window.add(0.0, {"gateway": {"x": 0.0}})
    for number, (added, restarts) in enumerate(steps):
        # A restart that counts past the old value by the next reading looks like growth alone.
        if restarts and added < count:
            count = 0
        before = count
        count += added
        grown += added
        window.add(number + 1.0, {"gateway": {"x": float(count)}})
        assert before <= count
    _, growth = window.growth(1e9)
    assert growth["x"] == grown


@pytest.mark.parametrize(("later_per_s", "stretch_s"), [(20, (100, 120)), (60, (5, 20))])
def test_the_stretch_of_a_rate_ends_where_it_changed(
    later_per_s: int, stretch_s: tuple[int, int]
) -> None:
    window, random, count = CounterWindow(120.0), Random(4), 0
    for second in range(200):
        rate = 20 if second < 185 else later_per_s
        count += sum(random.random() < rate / 1000 for _ in range(1000))
        window.add(float(second), {"gateway": {"x": float(count)}})
    seconds, growth = window.steady("x", lambda grown: grown["x"], 5.0)
    assert stretch_s[0] <= seconds <= stretch_s[1]
    assert growth["x"] / seconds == pytest.approx(later_per_s, rel=0.2)


SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6)]


@pytest.mark.parametrize("rate", [0.3, 2.2, 12.0])
@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
def test_chance_alone_ends_no_stretch_in_an_hour_of_random_arrivals(rate: float, seed: int) -> None:
    window, random, at_s, count = CounterWindow(300.0), Random(seed), 0.0, 0
    for tick in range(1, 720):
        while at_s < 5.0 * tick:
            at_s += random.expovariate(rate)
            count += 1
        window.add(5.0 * tick, {"gateway": {"x": float(count)}})
        seconds, _ = window.steady("x", lambda grown: grown["x"], 5.0)
        assert seconds >= min(300.0, 5.0 * (tick - 1)) - 1e-6


@pytest.mark.parametrize("rate", [2.2, 12.0])
def test_five_times_the_rate_is_seen_within_twenty_seconds(rate: float) -> None:
    window, random, at_s, count = CounterWindow(300.0), Random(9), 0.0, 0
    for tick in range(1, 104):
        while at_s < 5.0 * tick:
            at_s += random.expovariate(rate if at_s < 500 else 5 * rate)
            count += 1
        window.add(5.0 * tick, {"gateway": {"x": float(count)}})
    seconds, growth = window.steady("x", lambda grown: grown["x"], 5.0)
    assert seconds <= 20.0
    assert growth["x"] / seconds == pytest.approx(5 * rate, rel=0.4)


@pytest.mark.parametrize(
    ("buckets", "value"),
    [
        ({}, None),
        ({1.0: 0.0, math.inf: 0.0}, None),
        ({1.0: 10.0, 2.0: 20.0, math.inf: 20.0}, 1.8),
        ({1.0: 0.0, math.inf: 5.0}, 1.0),
    ],
)
def test_a_quantile_is_that_of_prometheus(buckets: dict[float, float], value: float | None) -> None:
    found = quantile(0.9, buckets)
    assert found is None if value is None else found == pytest.approx(value)


# --- a real Prometheus ---------------------------------------------------------------------------


@pytest.fixture
async def prometheus(gateway: Gateway, tmp_path: Path) -> AsyncIterator[str]:
    """A real server that scrapes the gateway every half second."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    target = gateway.url.removeprefix("http://").removesuffix("/metrics")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms}\n"
        f"scrape_configs: [{{job_name: baton, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


async def test_a_prometheus_server_gives_the_same_figures(
    gateway: Gateway, prometheus: str
) -> None:
    source = PrometheusServer(prometheus, window_s=10)
    gateway.answer(10)

    async def has_rates() -> bool:
        gateway.answer(20)
        gateway.metrics.counter("baton_admission_refused_total", reason="predicted").inc()
        try:
            return (await source.read()).traffic.uncached_tokens > 0
        except ReadingError:
            return False

    await _until(has_rates)
    reading = await source.read()
    assert reading.traffic.requests_per_s > 0
    assert reading.traffic.uncached_tokens == pytest.approx(600)
    assert reading.traffic.uncached_squares == pytest.approx(360_000)
    assert 0.1 < reading.traffic.local_share < 0.4
    assert reading.traffic.context_tokens == pytest.approx(1025)
    assert reading.traffic.age_s < 5
    assert reading.prefill.attainment == pytest.approx(1.0)
    assert reading.prefill.num_answers > reading.num_refused > 0
    assert reading.decode.ratio_p90 is not None and 1.1 < reading.decode.ratio_p90 <= 1.25
    with pytest.raises(ReadingError, match="400"):
        await source.query({"x": "sum("})


async def test_a_server_that_scrapes_no_gateway_is_said() -> None:
    with pytest.raises(ReadingError, match="cannot read"):
        await PrometheusServer(f"http://127.0.0.1:{free_port()}", 10).read()


async def test_what_is_no_prometheus_is_said(gateway: Gateway) -> None:
    with pytest.raises(ReadingError, match="answered 404"):
        await PrometheusServer(gateway.url, 10).read()


# --- workers -------------------------------------------------------------------------------------

INFO = WorkerInfo(
    "decode-0",
    1,
    Role.DECODE,
    "127.0.0.1:7000",
    FabricAddress("127.0.0.1", 7001, "host", "", ("tcp",)),
    Fingerprint("model", "r1", "float32", 16, "L2H2B16D16:float32"),
    2048,
    64,
)
HONEST = WorkerReport(role=Role.DECODE, num_blocks=64, num_free_blocks=16, num_running=4)


def status(report: WorkerReport, age_s: float = 0.1) -> WorkerStatus:
    return WorkerStatus(INFO, report, age_s)


def test_figures_come_from_the_report() -> None:
    (worker,) = WorkerWatch({}).figures([status(HONEST, 3.0)], 0.0, math.nan)
    assert worker.kv_use == 0.75 and worker.kv_tokens == 64 * 16
    assert worker.age_s == 3.0 and worker.costs is None and not worker.complaint


def test_costs_are_learned_from_the_totals() -> None:
    watch = WorkerWatch({})
    for tick in range(30):
        steps, seqs = tick * 10, (tick % 5 + 1) * 10
        totals = StepTotals(
            num_steps=steps,
            num_prefill_steps=tick,
            step_s=tick * 0.3,
            num_decode_tokens=tick * seqs,
            num_context_tokens=tick * seqs * 100,
            num_prefill_tokens=tick * 200,
            num_prefill_pairs=tick * 40_000,
        )
        (worker,) = watch.figures([status(replace(HONEST, totals=totals))], float(tick), math.nan)
    assert worker.costs is not None and worker.costs.itl_s(1, 100) > 0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda tick: replace(HONEST, num_free_blocks=65), "65 free of 64 KV blocks"),
        (lambda tick: replace(HONEST, num_running=-1), "below zero"),
        (
            lambda tick: replace(HONEST, totals=StepTotals(num_steps=tick, step_s=3.0 * tick)),
            "s of steps in",
        ),
        (
            lambda tick: replace(
                HONEST, totals=StepTotals(num_steps=tick, num_decode_tokens=5000 * tick)
            ),
            "all gateways sent",
        ),
        (lambda tick: replace(HONEST, totals=StepTotals(num_steps=100 - tick)), "sums went back"),
    ],
)
def test_a_worker_that_lies_about_its_load_is_found_out(
    make: Callable[[int], WorkerReport], complaint: str
) -> None:
    watch = WorkerWatch({})
    complaints = [
        watch.figures([status(make(tick))], float(tick), 100.0)[0].complaint for tick in range(30)
    ]
    assert any(complaint in said for said in complaints), complaints[-1]


def test_an_honest_worker_is_believed() -> None:
    watch = WorkerWatch({})
    for tick in range(60):
        totals = StepTotals(num_steps=20 * tick, step_s=0.9 * tick, num_decode_tokens=100 * tick)
        report = replace(HONEST, totals=totals)
        assert not watch.figures([status(report)], float(tick), 100.0)[0].complaint


def _observer(source: TrafficSource, clock: VirtualClock | SystemClock) -> Observer:
    async def starting() -> tuple[PoolStatus, ...]:
        return (PoolStatus(Role.PREFILL, 2, 1, starting=1),)

    seen = Seen(workers=tuple, starting=starting, traffic=source)
    return Observer(seen, WorkerWatch({}), clock, clock.now)


async def _until(holds: Callable[[], object], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await holds():  # type: ignore[misc]
            await asyncio.sleep(0.1)
