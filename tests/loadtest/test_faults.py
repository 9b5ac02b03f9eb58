"""Faults: their grammar, their time, and what the requests say of the recovery."""

import asyncio
from typing import Any

import pytest

from loadtest.columns import columns_of
from loadtest.errors import LoadtestError
from loadtest.faults import Fault, Injected, inject_at_its_time, outcome, parse_fault
from loadtest.slo import parse_slos

SLO = parse_slos(["ttft:200"])
FAULT = Fault("kill", "prefill", 20.0)


class MemoryFaults:
    """Victims that come back after so many questions."""

    def __init__(self, num_questions: int) -> None:
        self.num_questions = num_questions
        self.injected: list[Fault] = []

    async def inject(self, fault: Fault) -> str:
        if fault.victim == "nobody":
            raise LoadtestError("no running process is 'nobody'")
        self.injected.append(fault)
        return f"{fault.victim}-0"

    async def is_back(self, victim: str) -> bool:
        assert victim == "prefill-0"
        self.num_questions -= 1
        return self.num_questions < 0


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("kill", "prefill@30s", Fault("kill", "prefill", 30.0)),
        ("kill", "decode-0@1.5m", Fault("kill", "decode-0", 90.0)),
        ("freeze", "decode@30s+500ms", Fault("freeze", "decode", 30.0, 0.5)),
    ],
)
def test_faults_are_read(kind: str, text: str, fault: Fault) -> None:
    assert parse_fault(kind, text) == fault


@pytest.mark.parametrize("text", ["prefill", "prefill@", "@30s", "prefill@soon", "a b@3s"])
def test_a_wrong_fault_is_refused(text: str) -> None:
    with pytest.raises(LoadtestError):
        parse_fault("kill", text)


def test_a_freeze_needs_its_length() -> None:
    with pytest.raises(LoadtestError, match="needs its length"):
        parse_fault("freeze", "decode@30s")


async def test_a_fault_comes_at_its_time_and_is_watched_until_the_victim_is_back(
    tools: Any,
) -> None:
    injector = MemoryFaults(num_questions=1)
    start = tools.clock.now()
    injected = await inject_at_its_time(Fault("kill", "prefill", 0.1), injector, tools.clock, start)
    assert injector.injected[0].victim == "prefill"
    assert (injected.victim, injected.problem) == ("prefill-0", "")
    assert 0.099 <= injected.at_s < 2.0
    assert injected.back_s is not None and 0.249 <= injected.back_s < 3.0


async def test_a_victim_that_is_not_there_is_a_problem_in_the_report(tools: Any) -> None:
    fault = Fault("kill", "nobody", 0.0)
    injected = await inject_at_its_time(fault, MemoryFaults(0), tools.clock, tools.clock.now())
    assert "nobody" in injected.problem
    assert injected.back_s is None


async def test_a_run_that_ends_first_leaves_the_return_open(tools: Any) -> None:
    injector = MemoryFaults(num_questions=10_000)
    fault = Fault("kill", "prefill", 0.0)
    start = tools.clock.now()
    task = asyncio.create_task(inject_at_its_time(fault, injector, tools.clock, start))
    while not injector.injected:
        await asyncio.sleep(0)
    task.cancel()
    assert (await task).back_s is None


def test_recovery_is_when_requests_do_as_well_as_before(tools: Any) -> None:
    """Ten a second; between 20 s and 23 s they are too slow, and one is cut."""
    records = []
    for n in range(400):
        at_s = n / 10
        is_hit = 20.0 <= at_s < 23.0
        records.append(tools.record(n, at_s, ttft_s=0.9 if is_hit else 0.1))
    records[199] = tools.record(199, 19.9, gaps_s=(2.0,), error="connection lost")
    found = outcome(Injected(FAULT, 20.0, "prefill-0", 2.5), columns_of(records, SLO), 0.0)
    assert found.attainment_before == 1.0
    assert found.recovery_s == pytest.approx(3.0)
    assert found.num_failed == 1
    assert found.longest_stall_ms == pytest.approx(2000.0)
    assert found.num_in_flight == 2
    assert (found.back_s, found.victim) == (2.5, "prefill-0")


def test_a_single_miss_later_is_no_lasting_damage(tools: Any) -> None:
    records = [
        tools.record(n, n / 10, ttft_s=0.9 if n in (200, 205, 260) else 0.1) for n in range(400)
    ]
    found = outcome(Injected(FAULT, 20.0, "p"), columns_of(records, SLO), 0.0)
    assert found.recovery_s == pytest.approx(0.1)


def test_failures_after_the_recovery_are_not_the_faults(tools: Any) -> None:
    records = [tools.record(n, n / 10, ttft_s=0.9 if 200 <= n < 220 else 0.1) for n in range(400)]
    records[210] = tools.record(210, 21.0, error="HTTP 503: x", ttft_s=None, gaps_s=())
    records[390] = tools.record(390, 39.0, error="HTTP 503: x", ttft_s=None, gaps_s=())
    everything = columns_of(records, SLO)
    assert outcome(Injected(FAULT, 20.0, "p", 3.0), everything, 0.0).num_failed == 1
    assert outcome(Injected(FAULT, 20.0, "p"), everything, 0.0).num_failed == 2  # never back


def test_no_recovery_is_said_so(tools: Any) -> None:
    records = [tools.record(n, n / 10, ttft_s=0.9 if n >= 200 else 0.1) for n in range(300)]
    found = outcome(Injected(FAULT, 20.0, "p"), columns_of(records, SLO), 0.0)
    assert found.recovery_s is None


def test_a_fault_without_effect_has_recovered_at_once(tools: Any) -> None:
    records = [tools.record(n, n / 10) for n in range(300)]
    found = outcome(Injected(FAULT, 20.0, "p"), columns_of(records, SLO), 0.0)
    assert found.recovery_s == pytest.approx(0.0)
    assert found.num_failed == 0
