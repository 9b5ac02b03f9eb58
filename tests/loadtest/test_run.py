"""Whole runs through generator processes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from loadtest.assemble import RunContext, assemble
from loadtest.body import BodyOptions, PromptStyle
from loadtest.errors import LoadtestError
from loadtest.faults import Fault
from loadtest.fleet import Fleet
from loadtest.live import LiveStats
from loadtest.order import Order, plan_workload
from loadtest.record import RequestRecord
from loadtest.result import ServerSample
from loadtest.run import RunSpec, Watcher, record_run
from loadtest.scrape import change, parse_metrics, role_counts
from loadtest.server_facts import ask_server
from loadtest.slo import parse_slos
from loadtest.target import Target, parse_target

METRICS = b"""# HELP baton_router_workers x
baton_router_workers{role="prefill"} 2.0
baton_router_workers{role="decode"} 1.0
baton_ttft_seconds_bucket{le="0.1"} 4.0
baton_ttft_seconds_sum 3.5
python_gc_objects 7.0
"""


class Seeing(Watcher):
    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.samples: list[ServerSample] = []
        self.is_started = asyncio.Event()
        self.has_records = asyncio.Event()

    def started(self, start: float) -> None:
        self.is_started.set()

    def ended(self, records: Sequence[RequestRecord]) -> None:
        self.records += records
        self.has_records.set()

    def sampled(self, sample: ServerSample) -> None:
        self.samples.append(sample)


def spec_of(target: Target, **changes: Any) -> RunSpec:
    order = Order(
        rate=changes.pop("rate", "40"),
        duration=changes.pop("duration", "1.5s"),
        input_tokens="8",
        output_tokens="3",
        arrivals="constant",
    )
    return RunSpec(
        target=target,
        workload=plan_workload(order),
        body=BodyOptions(model="demo", style=PromptStyle.IDS),
        slos=parse_slos(["ttft:5000"]),
        max_lag_ms=5000.0,
        **changes,
    )


async def test_a_run_over_two_processes_sends_everything_once(tools: Any) -> None:
    answer = tools.answer([0.01, 0.01, 0.01])
    async with tools.serving(lambda n, body: answer, pages={"/metrics": (200, METRICS)}) as server:
        spec = spec_of(server.target, num_processes=2, warmup_s=0.5)
        watcher = Seeing()
        recording = await record_run(spec, tools.clock, asyncio.Event(), watcher)
        result = assemble(spec, recording, RunContext())
    assert sorted(record.index for record in recording.records) == list(range(60))
    assert len(server.seen) == 60
    assert len({tuple(seen.body["prompt"]) for seen in server.seen}) == 60
    assert len(watcher.records) == 60
    assert result.invalid == ()
    assert (result.num_sent, result.num_unsent, result.is_partial) == (60, 0, False)
    assert result.overall.num_requests == 41  # 0.5 s to 1.5 s, both ends
    assert result.overall.attainment == 1.0
    assert result.offered_rate == pytest.approx(41.0)
    assert 0 < result.busiest_share < 1
    assert role_counts(watcher.samples[0]) == {"prefill": 2.0, "decode": 1.0}
    assert result.stages.requests_by_pair == {"prefill-0 -> decode-0": 41}


async def test_a_mass_of_records_at_the_end_arrives_whole(tools: Any) -> None:
    """A megabyte of gaps at once is more than a pipe takes in one piece."""
    word = tools.chunk(tools.text_event("a") * 5000 + tools.text_event("b", "length"))
    reply = tools.Reply([tools.Write(tools.HEAD), tools.Write(word + tools.END)])
    async with tools.serving(lambda n, body: reply) as server:
        spec = spec_of(server.target, scrapes=False, rate="1000", duration="0.05s")
        recording = await record_run(spec, tools.clock, asyncio.Event(), Watcher())
    assert [record.gaps_s.size for record in recording.records] == [5000] * 50


async def test_a_late_generator_makes_the_run_invalid(tools: Any) -> None:
    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        spec = spec_of(server.target, scrapes=False, duration="0.3s")
        recording = await record_run(spec, tools.clock, asyncio.Event(), Watcher())
    bound = RunSpec(**{**{f: getattr(spec, f) for f in spec.__slots__}, "max_lag_ms": 1e-6})
    (reason,) = assemble(bound, recording, RunContext()).invalid
    assert "the load generator was the limit" in reason


async def test_an_interrupt_ends_the_run_with_what_was_done(tools: Any) -> None:
    hang = asyncio.Event()

    def script(number: int, body: Any) -> Any:
        if number % 2:
            return tools.Reply([tools.Write(tools.HEAD, hold=hang)])
        return tools.answer([0.0])

    async with tools.serving(script) as server:
        spec = spec_of(server.target, duration="600s", rate="50")
        watcher, interrupt = Seeing(), asyncio.Event()
        running = asyncio.create_task(record_run(spec, tools.clock, interrupt, watcher))
        while len(watcher.records) < 10:
            await watcher.has_records.wait()
            watcher.has_records.clear()
        interrupt.set()
        recording = await running
        result = assemble(spec, recording, RunContext())
        hang.set()
    assert result.is_partial
    assert result.num_unsent > 1000
    assert result.overall.num_requests == result.overall.num_ok >= 10
    assert result.facts.window_s[1] < 60


async def test_a_dying_server_is_counted(tools: Any) -> None:
    def script(number: int, body: Any) -> Any:
        if number == 20:
            listener.close()
        return tools.Reply(tools.answer([0.0]).writes, ends="close")

    async with tools.serving(script) as server:
        listener = server.listener
        spec = spec_of(server.target)
        recording = await record_run(spec, tools.clock, asyncio.Event(), Watcher())
        result = assemble(spec, recording, RunContext())
    assert len(recording.records) == 60
    assert 20 <= result.overall.num_ok < 60
    assert any("cannot connect" in reason for reason in result.overall.errors)


async def test_a_fault_without_injector_result_is_in_the_report(tools: Any) -> None:
    class NoCluster:
        async def inject(self, fault: Fault) -> str:
            raise LoadtestError("faults need a cluster that runs on this host")

        async def is_back(self, victim: str) -> bool:
            return False

    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        faults = (Fault("kill", "prefill", 0.1),)
        spec = spec_of(server.target, faults=faults, duration="0.5s")
        recording = await record_run(spec, tools.clock, asyncio.Event(), Watcher(), NoCluster())
        (found,) = assemble(spec, recording, RunContext()).faults
    assert found.problem == "faults need a cluster that runs on this host"


async def test_generator_processes_end_with_their_fleet(tools: Any) -> None:
    fleet = Fleet(2, tools.clock)
    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        spec = spec_of(server.target, duration="600s")
        await fleet.prepare(spec.workload.conversations, spec.body, spec.target, 5.0)
        fleet.begin()
        await fleet.close()
        await fleet.close()
    assert [process.returncode is not None for process in fleet._processes] == [True, True]


async def test_a_generator_that_dies_ends_the_run_with_an_error(tools: Any) -> None:
    fleet = Fleet(1, tools.clock)
    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        spec = spec_of(server.target, duration="600s")
        await fleet.prepare(spec.workload.conversations, spec.body, spec.target, 5.0)
        fleet.begin()
        fleet._processes[0].kill()
        with pytest.raises(LoadtestError, match="died"):
            await fleet.run(lambda records: None)
        await fleet.close()


async def test_the_server_is_asked_for_its_model(tools: Any) -> None:
    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        facts = await ask_server(server.target, "", tools.clock)
        assert (facts.model, facts.max_model_len) == ("demo", 4096)
        named = await ask_server(server.target, "other", tools.clock)
        assert (named.model, named.max_model_len) == ("other", 0)
        server.pages["/v1/models"] = (200, b"[]")
        with pytest.raises(LoadtestError, match="name it with --model"):
            await ask_server(server.target, "", tools.clock)
    with pytest.raises(LoadtestError, match="no server answers"):
        await ask_server(server.target, "", tools.clock)


async def test_too_long_requests_are_warned_of(tools: Any) -> None:
    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        spec = spec_of(server.target, duration="0.2s")
        recording = await record_run(spec, tools.clock, asyncio.Event(), Watcher())
    context = RunContext(max_model_len=10)
    assert "8 requests are longer" in assemble(spec, recording, context).warnings[0]


def test_metrics_of_serving_systems_are_kept() -> None:
    values = parse_metrics([*METRICS.decode().splitlines(), "vllm:x NaN", "baton_y broken"])
    assert values == {
        'baton_router_workers{role="prefill"}': 2.0,
        'baton_router_workers{role="decode"}': 1.0,
        "baton_ttft_seconds_sum": 3.5,
    }


def test_counters_grow_and_gauges_have_means() -> None:
    samples = [
        ServerSample(at_s, {"baton_x_total": at_s * 10, "baton_in_flight": 4 + at_s})
        for at_s in (1.0, 2.0, 3.0)
    ]
    assert change(samples) == {"baton_x_total": 20.0, "baton_in_flight": 6.0}
    assert change([]) == {}


def test_live_figures_are_of_the_last_ten_seconds(tools: Any) -> None:
    stats = LiveStats(300, [n / 10 for n in range(300)], parse_slos(["ttft:150"]))
    stats.add([tools.record(n, n / 10, ttft_s=0.9 if n < 100 else 0.1) for n in range(199)])
    stats.add([tools.record(199, 19.9, error="HTTP 429: full", ttft_s=None, gaps_s=())])
    figures = stats.figures(20.15)
    assert (figures.num_ended, figures.num_failed, figures.num_due) == (200, 1, 202)
    assert figures.last_error == "HTTP 429: full"
    assert figures.rate == pytest.approx(10.0, rel=0.1)
    assert figures.ttft_ms[0] == pytest.approx(100)
    assert 0.9 < figures.goodput_share < 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:8000/v1", Target("h", 8000)),
        ("https://h/base/v1/", Target("h", 443, True, "/base")),
        ("h:81", Target("h", 81)),
        ("http://[::1]:80", Target("::1", 80)),
    ],
)
def test_urls_are_read(url: str, expected: Target) -> None:
    assert parse_target(url) == expected


@pytest.mark.parametrize("url", ["", "ftp://h", "http://", "http://h:x", "http://h:99999"])
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(LoadtestError):
        parse_target(url)


def test_a_key_is_sent_and_kept_out_of_the_url() -> None:
    target = parse_target("http://h:1", "secret")
    assert b"Authorization: Bearer secret\r\n" in target.head("POST", "/v1/completions")
    assert "secret" not in target.url


def test_an_ipv6_address_keeps_its_brackets() -> None:
    target = parse_target("http://[::1]:81")
    assert target.url == "http://[::1]:81"
    assert b"Host: [::1]:81\r\n" in target.head("GET", "/")
