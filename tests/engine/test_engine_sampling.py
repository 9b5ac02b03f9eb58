"""Sampling parameters through the engine: ends, bans, penalties and seeds."""

import pytest

from wire.messages import FinishReason

SAMPLED = {
    "temperature": 0.9,
    "top_p": 0.95,
    "top_k": 80,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
}


def answer(driver, request) -> list[int]:
    driver.engine.add(request)
    return driver.run()[request.seq_id]


def test_a_stop_id_ends_the_answer_and_is_its_last_token(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    plain = oracle.answer(make_prompt(10), 12)
    stop = next(token for i, token in enumerate(plain) if i >= 3 and token not in plain[:i])
    request = make_request(0, make_prompt(10), 12, stop_token_ids=(stop,))
    assert answer(driver, request) == plain[: plain.index(stop) + 1]
    assert driver.streams[0].finish is FinishReason.STOP


def test_max_tokens_ends_the_answer(oracle, drive, make_request, make_prompt) -> None:
    driver = drive(oracle.model)
    assert len(answer(driver, make_request(0, make_prompt(10), 1))) == 1
    assert driver.streams[0].finish is FinishReason.LENGTH


def test_the_end_token_ends_the_answer_unless_it_is_ignored_or_too_early(
    oracle, drive, make_request, make_prompt
) -> None:
    prompt = make_prompt(10)
    plain = oracle.answer(prompt, 12)
    driver = drive(oracle.model)
    driver.engine._config = type(driver.config)(
        num_blocks=256, max_model_len=2304, eos_token_ids=(plain[0],)
    )
    assert answer(driver, make_request(0, prompt, 12, ignore_eos=True)) == plain
    assert answer(driver, make_request(1, prompt, 12, ignore_eos=False)) == plain[:1]
    late = answer(driver, make_request(2, prompt, 12, ignore_eos=False, min_tokens=6))
    assert plain[0] not in late[:6] and len(late) > 6


def test_a_stop_id_before_min_tokens_is_not_chosen(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    prompt = make_prompt(10)
    stop = oracle.answer(prompt, 1)[0]
    tokens = answer(driver, make_request(0, prompt, 9, stop_token_ids=(stop,), min_tokens=4))
    assert stop not in tokens[:4]


def test_a_sampled_answer_is_the_same_in_any_batch_and_on_any_engine(
    oracle, drive, make_request, make_prompt
) -> None:
    requests = [make_request(i, make_prompt(9 + i), 40, seed=i, **SAMPLED) for i in range(6)]
    alone = [answer(drive(oracle.model), request) for request in requests]
    together = drive(oracle.model, max_batch_tokens=24)
    for request in requests:
        together.engine.add(request)
    assert [together.run()[i] for i in range(6)] == alone
    crowded = drive(oracle.model, num_blocks=6)
    for request in requests:
        crowded.engine.add(request)
    assert [crowded.run()[i] for i in range(6)] == alone
    assert crowded.engine.load().num_preemptions > 0


@pytest.mark.parametrize("known", [1, 7, 19])
def test_a_sampled_answer_resumes_as_it_would_have_gone_on(
    oracle, drive, make_request, make_prompt, known: int
) -> None:
    prompt = make_prompt(21)
    whole = answer(drive(oracle.model), make_request(0, prompt, 20, seed=3, **SAMPLED))
    resumed = make_request(0, prompt, 20, seed=3, outputs=tuple(whole[:known]), **SAMPLED)
    assert answer(drive(oracle.model), resumed) == whole[known:]


def test_seeds_give_different_answers(oracle, drive, make_request, make_prompt) -> None:
    driver = drive(oracle.model)
    answers = {
        tuple(answer(driver, make_request(i, make_prompt(9), 10, seed=i, temperature=1.5)))
        for i in range(5)
    }
    assert len(answers) == 5


def test_a_strong_repetition_penalty_never_repeats(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    prompt = make_prompt(12)
    tokens = answer(driver, make_request(0, prompt, 40, repetition_penalty=1e6))
    assert len(set(tokens)) == 40 and not set(tokens) & set(prompt)
