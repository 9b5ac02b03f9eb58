"""What a worker has computed since its last account does not wait any more."""

import math
from dataclasses import replace

import pytest

from profiles.catalog import load_profile
from router.load import WorkerLoad
from router.outlook import WorkerForecast
from router.predictor import profile_costs
from router.under_way import StepUnderWay
from wire.messages import Role, WorkerReport


def report(num_steps, waiting_tokens, step_s=0.1):
    return WorkerReport(
        Role.PREFILL, num_steps=num_steps, waiting_tokens=waiting_tokens, step_s=step_s
    )


def test_time_counts_from_the_account_that_tells_of_a_step():
    step = StepUnderWay()
    step.reported(report(1, 500), 500, 10.0)
    step.reported(report(1, 500), 500, 10.2)  # the same step goes on
    assert step.since_s == 10.0
    step.reported(report(2, 400), 400, 10.3)
    assert step.since_s == 10.3
    step.counted(300, 10.4, True)  # a first token came
    assert step.since_s == 10.4


def test_a_prompt_that_waits_alone_begins_when_it_comes():
    step = StepUnderWay()
    step.reported(report(1, 0), 0, 10.0)
    assert step.since_s == math.inf
    step.counted(200, 12.0, False)
    step.counted(700, 12.1, False)  # another one behind it
    assert step.since_s == 12.0
    step.reported(report(2, 0), 700, 12.2)  # a report that knows of neither
    assert step.since_s == 12.0
    step.counted(0, 12.3, True)
    assert step.since_s == math.inf


def test_a_worker_that_may_be_stuck_has_done_no_more_than_its_longest_step():
    forecast = WorkerForecast(profile_costs(load_profile("llama-3.1-8b@h200")))
    load = WorkerLoad()
    full = report(1, 50_000, step_s=0.2)
    load.reported(full)
    forecast.reported(full.totals, 10.0)
    forecast.step.reported(full, load.waiting_tokens, 10.0)
    outlook = forecast.outlook(load)
    assert outlook is not None
    assert outlook.queue_at(10.0) == outlook.queue_s > 1.0
    base_s = outlook.costs.step_s
    assert outlook.queue_at(10.15) == pytest.approx(outlook.queue_s - 0.15 + base_s)
    assert outlook.queue_at(99.0) == pytest.approx(outlook.queue_s - 0.2 + base_s)
    short = replace(outlook, queue_s=0.05)
    assert short.queue_at(10.15) == 0.0
