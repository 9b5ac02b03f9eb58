"""Prompts whose beginning went to the host's memory and comes back: the same answers, less work."""

import pytest
import torch

from engine.host_memory import PlainHostMemory
from engine.kernels.fp8_linear import FP8
from runtime.clock import VirtualClock


def rounds(driver, prompts, make_request, num_rounds: int = 2) -> list[list[int]]:
    """Answers to each prompt, one after the other, round by round."""
    answers = []
    for number in range(num_rounds * len(prompts)):
        driver.engine.add(make_request(number, prompts[number % len(prompts)], 6))
        answers.append(driver.run()[number])
    return answers


def test_answers_are_the_same_through_the_host_tier(
    each_oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(each_oracle.model, num_blocks=12, num_host_slots=40, max_batch_tokens=48)
    prompts = [make_prompt(100 + 9 * i, i) for i in range(4)]
    wanted = [each_oracle.answer(prompt, 6) for prompt in prompts]
    assert rounds(driver, prompts, make_request) == wanted * 2
    host = driver.engine.load().host
    assert host.num_restored_tokens >= 96 and host.num_host_hits >= 1
    assert 0 < host.num_used_blocks <= 40


def test_prompts_that_come_back_beside_running_ones_answer_as_ever(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=30, num_host_slots=60, max_batch_tokens=32)
    prompts = [make_prompt(90 + 16 * i, i) for i in range(5)]
    for number in range(15):
        driver.engine.add(make_request(number, prompts[number % 5], 12))
        driver.step()
        if number % 4 == 3:
            driver.engine.cancel(number - 1)
            driver.streams.pop(number - 1, None)
    answers = driver.run()
    for number, tokens in answers.items():
        assert tokens == oracle.answer(prompts[number % 5], 12)
    assert driver.engine.load().host.num_restored_tokens


@pytest.mark.parametrize(("num_slots", "num_cached"), [(0, 16), (40, 112)])
def test_what_comes_back_counts_as_cached_and_is_not_computed(
    oracle, drive, make_request, make_prompt, num_slots, num_cached
) -> None:
    driver = drive(oracle.model, num_blocks=12, num_host_slots=num_slots)
    first, other = make_prompt(128), make_prompt(170, 1)
    for number, prompt in enumerate((first, other)):
        driver.engine.add(make_request(number, prompt, 2))
        driver.run()
    assert driver.engine.add(make_request(2, first, 2)) == num_cached
    plan = driver.engine.schedule()
    assert [(chunk.start, chunk.end) for chunk in plan.chunks] == [(num_cached, 128)]
    driver.engine.execute(plan)


def test_a_copy_that_is_slower_than_computing_is_not_made(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=12, num_host_slots=40)
    for number in range(2):
        driver.engine.add(make_request(number, make_prompt(170, number), 2))
        driver.run()
    for _ in range(20):
        driver.engine._tier.computed(160, step_s=1.0)
        driver.host._took(0.2, num_blocks=1)
    num_cached = driver.engine.add(make_request(2, make_prompt(170, 0), 2))
    assert num_cached == 16, "what is on the device is used all the same"
    assert driver.run()[2] == oracle.answer(make_prompt(170, 0), 2)
    assert driver.engine.load().host.num_restored_tokens == 0


def test_a_running_answer_waits_for_no_more_blocks_than_a_step_may_compute(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=24, num_host_slots=40, max_batch_tokens=32)
    session, other = make_prompt(160), make_prompt(350, 1)
    driver.engine.add(make_request(0, session, 2))
    driver.run()
    driver.engine.add(make_request(1, other, 2))
    driver.run()
    driver.engine.add(make_request(2, make_prompt(20, 2), 30))
    driver.step()
    driver.engine.add(make_request(3, session, 2))
    restored = []
    while driver.engine.has_work:
        before = driver.engine.load().host.num_restored_tokens
        driver.step()
        restored.append(driver.engine.load().host.num_restored_tokens - before)
    assert max(restored) == 32 and sum(restored) >= 96
    assert driver.streams[3].tokens == oracle.answer(session, 2)


def test_alone_a_prompt_comes_back_at_once(oracle, drive, make_request, make_prompt) -> None:
    driver = drive(oracle.model, num_blocks=12, num_host_slots=40, max_batch_tokens=16)
    for number in range(2):
        driver.engine.add(make_request(number, make_prompt(170, number), 2))
        driver.run()
    driver.engine.add(make_request(2, make_prompt(170, 0), 2))
    plan = driver.engine.schedule()
    assert [(chunk.start, chunk.end) for chunk in plan.chunks] == [(160, 170)]
    driver.engine.execute(plan)


def test_a_reservation_takes_from_the_host_what_it_can(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=12, num_host_slots=40, max_batch_tokens=512)
    for number in range(2):
        driver.engine.add(make_request(number, make_prompt(170, number), 2))
        driver.run()
    reservation = driver.engine.reserve(make_request(2, make_prompt(170, 0), 2))
    assert reservation.num_cached_tokens == 160
    driver.engine.check_integrity()
    driver.engine.activate(2, 0)
    assert driver.run()[2] == oracle.answer(make_prompt(170, 0), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP8])
def test_a_block_comes_back_byte_for_byte(dtype) -> None:
    kv = torch.randn(3, 8, 2, 2, 16, 4).to(dtype)
    before = kv.view(torch.uint8).clone()
    clock = VirtualClock()
    memory = PlainHostMemory(kv, 4, clock)
    memory.save({0: 5, 3: 1})
    kv.view(torch.uint8)[:, [5, 1, 6]] = 255
    memory.load({6: 0, 1: 3})
    after = kv.view(torch.uint8)
    assert torch.equal(after[:, 6], before[:, 5]) and torch.equal(after[:, 1], before[:, 1])
    assert torch.equal(after[:, [0, 2, 3, 4, 7]], before[:, [0, 2, 3, 4, 7]])
    memory.close()
    memory.close()
