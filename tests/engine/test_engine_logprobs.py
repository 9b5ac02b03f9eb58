"""Log-probabilities and biases through the engine, against the model's own logits."""

import pytest
import torch

from wire.messages import TokenLogprobs


def logprobs_of(driver, request) -> list[TokenLogprobs]:
    driver.engine.add(request)
    found = []
    while (plan := driver.engine.schedule()) is not None:
        for output in driver.engine.execute(plan).outputs:
            driver._record(output)
            assert output.logprobs is not None
            found.append(output.logprobs)
    return found


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_log_probabilities_are_those_of_the_model_whatever_the_sampling(
    oracle, drive, make_request, make_prompt, temperature: float
) -> None:
    prompt = make_prompt(20)
    driver = drive(oracle.model)
    request = make_request(
        0, prompt, 6, temperature=temperature, top_logprobs=3, presence_penalty=1.0
    )
    found = logprobs_of(driver, request)
    answer = driver.streams[0].tokens
    with torch.no_grad():
        logits = oracle.reference(torch.tensor([[*prompt, *answer]])).logits[0]
    wanted = logits.log_softmax(-1)
    for index, (token, one) in enumerate(zip(answer, found, strict=True)):
        row = wanted[len(prompt) - 1 + index]
        assert one.logprob == pytest.approx(row[token].item(), abs=1e-4)
        values, ids = row.topk(3)
        assert [top for top, _ in one.top] == ids.tolist()
        assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_only_the_sequences_that_ask_get_log_probabilities(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    wishes = {0: None, 1: 0, 2: 4}
    for seq_id, top in wishes.items():
        driver.engine.add(make_request(seq_id, make_prompt(9 + seq_id), 4, top_logprobs=top))
    while (plan := driver.engine.schedule()) is not None:
        for output in driver.engine.execute(plan).outputs:
            driver._record(output)
            num_top = None if output.logprobs is None else len(output.logprobs.top)
            assert num_top == wishes[output.seq_id]
    plain = oracle.answer(make_prompt(9), 4)
    assert driver.streams[0].tokens == plain


def test_a_bias_forbids_a_token_or_forces_it(oracle, drive, make_request, make_prompt) -> None:
    prompt = make_prompt(10)
    first = oracle.answer(prompt, 1)[0]
    driver = drive(oracle.model)
    driver.engine.add(make_request(0, prompt, 3, logit_bias=((first, -1000.0),)))
    driver.engine.add(make_request(1, prompt, 3, logit_bias=((77, 1000.0),)))
    found = driver.run()
    assert first not in found[0]
    assert found[1] == [77, 77, 77]
