"""The engine's greedy answers are transformers', through batching, reuse, chunks, preemption."""

import pytest

NUM_TOKENS = 12
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 100, 161)


def test_answers_equal_those_of_transformers_over_prompt_lengths(
    each_oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(each_oracle.model, max_batch_tokens=64)
    prompts = {i: make_prompt(length) for i, length in enumerate(LENGTHS)}
    for i, prompt in prompts.items():
        driver.engine.add(make_request(i, prompt, NUM_TOKENS))
    tokens = driver.run()
    for i, prompt in prompts.items():
        assert tokens[i] == each_oracle.answer(prompt, NUM_TOKENS), f"prompt of {len(prompt)}"


@pytest.mark.parametrize("length", [511, 1024, 2000])
def test_long_prompts_in_chunks_equal_those_of_transformers(
    oracle, drive, make_request, make_prompt, length: int
) -> None:
    driver = drive(oracle.model, max_batch_tokens=200)
    prompt = make_prompt(length)
    driver.engine.add(make_request(0, prompt, NUM_TOKENS))
    assert driver.run()[0] == oracle.answer(prompt, NUM_TOKENS)
    assert driver.max_step_tokens <= 200


@pytest.mark.parametrize("budget", [1, 7, 16, 40, 500])
def test_the_chunk_size_does_not_change_the_answer(
    oracle, drive, make_request, make_prompt, budget: int
) -> None:
    driver = drive(oracle.model, max_batch_tokens=budget)
    prompt = make_prompt(50)
    driver.engine.add(make_request(0, prompt, NUM_TOKENS))
    assert driver.run()[0] == oracle.answer(prompt, NUM_TOKENS)
    assert driver.max_step_tokens <= budget


def test_requests_that_arrive_during_others_get_their_own_answers(
    each_oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(each_oracle.model, max_batch_tokens=48, max_num_seqs=4)
    prompts = {i: make_prompt(3 + 17 * i, seed=1) for i in range(9)}
    for i, prompt in prompts.items():
        driver.engine.add(make_request(i, prompt, 4 + i))
        driver.step()
        driver.step()
    tokens = driver.run()
    for i, prompt in prompts.items():
        assert tokens[i] == each_oracle.answer(prompt, 4 + i)


def test_a_cached_prefix_gives_the_same_answer_with_less_work(
    each_oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(each_oracle.model)
    shared = make_prompt(100, seed=2)
    first, second = shared + make_prompt(9), shared + make_prompt(30)
    assert driver.engine.add(make_request(0, first, NUM_TOKENS)) == 0
    driver.run()
    assert driver.engine.add(make_request(1, second, NUM_TOKENS)) == 96
    plan = driver.engine.schedule()
    assert [(c.start, c.end) for c in plan.chunks] == [(96, 130)]
    driver.engine.execute(plan)
    driver.engine.cancel(1)
    driver.engine.add(make_request(2, second, NUM_TOKENS))
    assert driver.run()[2] == each_oracle.answer(second, NUM_TOKENS)


def test_a_wholly_cached_prompt_computes_its_last_token_only(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    prompt = make_prompt(65)
    driver.engine.add(make_request(0, prompt, NUM_TOKENS))
    driver.run()
    assert driver.engine.add(make_request(1, prompt, NUM_TOKENS)) == 64
    assert driver.run()[1] == oracle.answer(prompt, NUM_TOKENS)
    whole_blocks = prompt[:64]
    assert driver.engine.add(make_request(2, whole_blocks, NUM_TOKENS)) == 48
    assert driver.run()[2] == oracle.answer(whole_blocks, NUM_TOKENS)


def test_generated_tokens_are_reused_by_the_next_turn(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    prompt = make_prompt(20)
    driver.engine.add(make_request(0, prompt, 30))
    answer = tuple(driver.run()[0])
    next_turn = prompt + answer + make_prompt(5)
    assert driver.engine.add(make_request(1, next_turn, NUM_TOKENS)) == 48
    assert driver.run()[1] == oracle.answer(next_turn, NUM_TOKENS)


def test_preempted_sequences_continue_without_a_gap(
    each_oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(each_oracle.model, num_blocks=10, max_batch_tokens=64)
    prompts = {i: make_prompt(20 + i, seed=3) for i in range(5)}
    for i, prompt in prompts.items():
        driver.engine.add(make_request(i, prompt, 60))
    tokens = driver.run()
    assert driver.engine.load().num_preemptions > 0
    for i, prompt in prompts.items():
        assert tokens[i] == each_oracle.answer(prompt, 60)


def test_an_answer_resumes_from_tokens_generated_elsewhere(
    oracle, drive, make_request, make_prompt
) -> None:
    prompt = make_prompt(37)
    answer = oracle.answer(prompt, 40)
    for known in (1, 10, 11, 39):
        driver = drive(oracle.model)
        driver.engine.add(make_request(0, prompt, 40, outputs=tuple(answer[:known])))
        assert driver.run()[0] == answer[known:]
        assert driver.streams[0].first_index == known
