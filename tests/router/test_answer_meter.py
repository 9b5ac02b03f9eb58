"""Answers as the sums that a planner sizes pools from."""

import pytest

from router.answer_meter import AnswerMeter
from router.output import RequestTrace
from router.policies.policy import Forecast
from runtime.metrics import GATEWAY_METRICS, Metrics


def trace(**changes: object) -> RequestTrace:
    values: dict[str, object] = {
        "kind": "remote",
        "prefill_worker": "p",
        "decode_worker": "d",
        "attempts": 1,
        "ttft_s": 0.5,
        "tpot_s": 0.02,
        "num_prompt_tokens": 100,
        "num_cached_tokens": 40,
        "num_output_tokens": 10,
        "ttft_slo_s": 1.0,
        "tpot_slo_s": 0.05,
        **changes,
    }
    return RequestTrace(**values)  # type: ignore[arg-type]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return float(metrics.counter(name, **labels)._value.get())


def test_lengths_and_their_second_moment_are_summed() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    meter = AnswerMeter(metrics)
    meter.began(100, 40)
    assert value(metrics, "baton_answers_begun_total") == 1
    assert value(metrics, "baton_answers_total") == 0
    meter.ended(trace())
    assert value(metrics, "baton_answers_total") == 1
    assert value(metrics, "baton_uncached_tokens_total") == 60
    assert value(metrics, "baton_local_tokens_total") == 0
    assert value(metrics, "baton_uncached_token_squares_total") == 3600
    assert value(metrics, "baton_prefill_pairs_total") == 100**2 - 40**2
    assert value(metrics, "baton_context_token_steps_total") == pytest.approx(10 * 105)


def test_what_the_decoding_worker_computes_by_choice_is_counted_apart() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    AnswerMeter(metrics).began(100, 40, is_local=True)
    AnswerMeter(metrics).began(500, 0)
    assert value(metrics, "baton_uncached_tokens_total") == 560
    assert value(metrics, "baton_local_tokens_total") == 60


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, "both"),
        ({"ttft_s": 2.0}, "tpot"),
        ({"tpot_s": 0.1}, "ttft"),
        ({"ttft_s": 2.0, "tpot_s": 0.1}, "none"),
        ({"num_output_tokens": 1, "tpot_s": 0.1}, "both"),
    ],
)
def test_goodput_tells_which_objectives_were_met(changes: dict[str, object], met: str) -> None:
    metrics = Metrics(GATEWAY_METRICS)
    AnswerMeter(metrics).ended(trace(**changes))
    assert value(metrics, "baton_goodput_total", met=met) == 1


def test_a_request_without_a_token_counts_nowhere() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    AnswerMeter(metrics).ended(trace(num_output_tokens=0, ttft_s=0.0))
    assert value(metrics, "baton_answers_total") == 0


def test_what_was_predicted_stands_beside_what_was_measured() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    forecast = Forecast(ttft_s=0.9, tpot_s=0.01, queue_s=0.0, prefill_s=0.1, exposed_s=0.0)
    AnswerMeter(metrics).ended(trace(predicted=forecast))
    text = metrics.exposition().decode()
    assert 'baton_slo_ratio_bucket{kind="predicted",le="0.9",objective="ttft"} 1.0' in text
    assert 'baton_slo_ratio_bucket{kind="measured",le="0.5",objective="ttft"} 1.0' in text
