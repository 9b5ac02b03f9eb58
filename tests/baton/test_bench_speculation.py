"""The measurement of guessed tokens, over a shape that takes no time."""

from array import array
from dataclasses import replace

import numpy as np
import pytest
import torch

from baton.bench.engine import QWEN3_06B
from baton.bench.speculation import TEXTS, ScriptedModel, SpeculationBench
from engine.sequence import EngineRequest
from engine.speculation.lookup import look_up
from engine.weights import random_model
from wire.messages import FinishReason, SamplingParams

TINY = replace(
    QWEN3_06B,
    num_layers=1,
    hidden_size=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    intermediate_size=32,
    vocab_size=512,
    layer_windows=(None,),
    dtype=torch.float32,
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_row_has_both_rates_of_the_same_run(text: str) -> None:
    bench = SpeculationBench(ScriptedModel(random_model(TINY, torch.float32, 0), TEXTS[text]), 2)
    row = bench.row("name", repeats=1)
    assert row.value > 0 and row.ratio == pytest.approx(row.value / row.baseline_value)


@pytest.mark.parametrize("text", TEXTS)
def test_a_scripted_answer_is_the_script(text: str) -> None:
    bench = SpeculationBench(ScriptedModel(random_model(TINY, torch.float32, 0), TEXTS[text]), 1)
    engine = bench._engine(True)
    prompt = tuple(TEXTS[text](np.arange(40)).tolist())
    engine.add(EngineRequest(0, prompt, SamplingParams(temperature=0.0, max_tokens=50)))
    outputs = []
    while (plan := engine.schedule()) is not None:
        outputs.extend(engine.execute(plan).outputs)
    assert [output.token for output in outputs] == TEXTS[text](np.arange(40, 90)).tolist()
    assert outputs[-1].finish is FinishReason.LENGTH


def test_the_texts_are_as_easy_to_guess_as_they_say() -> None:
    rates = {}
    for name, script in TEXTS.items():
        text = script(np.arange(400)).tolist()
        found = [(look_up(array("I", text[:end]), 1), text[end]) for end in range(60, 399)]
        right = sum(guess == (token,) for guess, token in found)
        rates[name] = (sum(bool(guess) for guess, _ in found), right)
    assert rates["repetitive"] == (339, 339)
    assert rates["without_repetition"] == (0, 0)
    assert rates["misleading"][0] > 330 and rates["misleading"][1] < 339 * 0.4
