"""An EAGLE-3 head guesses as its description says, and changes no answer."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from eagle_heads import ReferenceHead, Shape
from eagle_runs import check_guesses, guessing
from timed_model import TimedModel
from torch import Tensor

from engine.engine import Engine
from engine.models.eagle import EagleHead
from engine.options import EngineConfig
from engine.speculation.speculator import Speculator
from runtime.clock import VirtualClock

PENALISED = {
    "temperature": 0.9,
    "top_p": 0.95,
    "top_k": 80,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.1,
}


@pytest.fixture
def guesser(deep_oracle, drive, tmp_path: Path) -> Callable[..., tuple]:
    """Engines that guess with one random head, and its description in plain torch."""
    reference = ReferenceHead(Shape())
    reference.save(tmp_path / "head")

    def make(**limits: int) -> tuple:
        model, drafter = guessing(
            deep_oracle.model, tmp_path / "head", limits.get("num_blocks", 256)
        )
        return drive(model, drafter, **limits), drafter, reference

    return make


def test_the_heads_logits_are_those_of_its_description(
    deep_oracle, guesser, make_request, make_prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []
    whole = EagleHead.logits

    def logits(head: EagleHead, states: Tensor) -> Tensor:
        given.append(whole(head, states).clone())
        return whole(head, states)

    monkeypatch.setattr(EagleHead, "logits", logits)
    driver, drafter, reference = guesser(max_batch_tokens=32)
    driver.engine.add(make_request(0, make_prompt(70), 12))
    driver.run()
    steps, states = iter(given), None
    for tokens, first, guessed in drafter.found:
        assert first == 0
        states = reference.states(deep_oracle.reference, tokens)
        for wanted in reference.chain(states, tokens, len(guessed)):
            found = next(steps)[0]
            assert torch.allclose(found[reference.targets], wanted, atol=2e-4)
            assert int(found.isfinite().sum()) == len(wanted)
    assert next(steps, None) is None and len(given) > 20


@pytest.mark.parametrize("style", [{}, PENALISED], ids=["greedy", "drawn"])
def test_answers_with_a_head_are_those_without(
    deep_oracle, drive, guesser, make_request, make_prompt, style: dict[str, float]
) -> None:
    requests = [make_request(i, make_prompt(7 + 13 * i), 24, seed=i, **style) for i in range(5)]
    plain = drive(deep_oracle.model)
    driver, drafter, _ = guesser(num_blocks=9, max_batch_tokens=40)
    for request in requests:
        plain.engine.add(request)
        driver.engine.add(request)
    assert driver.run() == plain.run()
    assert driver.num_drafts > 60 and driver.engine.load().num_preemptions > 0
    if not style:
        assert plain.streams[0].tokens == deep_oracle.answer(requests[0].prompt_tokens, 24)


def test_every_guess_of_a_mixed_and_crowded_engine_is_the_descriptions(
    deep_oracle, guesser, make_request, make_prompt
) -> None:
    driver, drafter, reference = guesser(num_blocks=9, max_batch_tokens=24)
    for i in range(5):
        driver.engine.add(make_request(i, make_prompt(10 + 13 * i), 24))
    driver.run()
    assert driver.engine.load().num_preemptions > 0
    assert check_guesses(deep_oracle, reference, drafter) > 60


def test_a_cached_prefix_that_the_head_has_been_over_is_in_its_context(
    deep_oracle, guesser, make_request, make_prompt
) -> None:
    driver, drafter, reference = guesser()
    shared = make_prompt(70)
    driver.engine.add(make_request(0, shared, 8))
    driver.run()
    assert driver.engine.add(make_request(1, shared + make_prompt(9, seed=3), 16)) == 64
    driver.run()
    assert {first for _, first, _ in drafter.found} == {0}
    assert check_guesses(deep_oracle, reference, drafter) > 20


def test_a_blocks_keys_are_not_taken_for_those_of_other_tokens(
    deep_oracle, guesser, make_request, make_prompt
) -> None:
    """The pool hands blocks on: what the head left in them is of others."""
    driver, drafter, reference = guesser(num_blocks=12, num_host_slots=40)
    prompts = [make_prompt(100 + 9 * i, seed=i) for i in range(3)]
    for turn in range(9):
        driver.engine.add(make_request(turn, prompts[turn * 2 % 3], 8))
        driver.run()
    assert driver.engine.load().host.num_restored_tokens
    firsts = {first for _, first, _ in drafter.found}
    assert 0 in firsts and firsts - {0}, "blocks came back from the host without the head's"
    assert check_guesses(deep_oracle, reference, drafter) > 100


@pytest.mark.parametrize("length", [41, 48])
def test_behind_transferred_blocks_the_heads_context_is_what_was_computed_here(
    deep_oracle, drive, guesser, make_request, make_prompt, length: int
) -> None:
    source = drive(deep_oracle.model)
    driver, drafter, reference = guesser()
    prompt = make_prompt(length)
    reservation = driver.engine.reserve(make_request(5, prompt, 30))
    source.engine.add(make_request(0, prompt, 30, prefill_only=True))
    plan = source.engine.schedule()
    token = source.engine.execute(plan).outputs[0].token
    num_blocks = -(-length // 16)
    for a, b in zip(plan.chunks[0].block_ids, reservation.block_ids[:num_blocks], strict=True):
        driver.kv[:, b] = source.kv[:, a]
    driver.engine.activate(5, length, (token,))
    driver.engine.add(make_request(6, make_prompt(20), 12))
    assert [token, *driver.run()[5]] == deep_oracle.answer(prompt, 30)
    moved = [item for item in drafter.found if tuple(item[0][:length]) == prompt]
    assert {first for _, first, _ in moved} == {length}
    assert check_guesses(deep_oracle, reference, drafter) > 60
    driver.engine.add(make_request(7, (*prompt, 9), 8))
    driver.run()
    assert check_guesses(deep_oracle, reference, drafter) > 70


def test_a_head_that_knows_the_text_saves_steps(
    deep_oracle, drive, make_request, make_prompt, tmp_path: Path
) -> None:
    request = make_request(0, make_prompt(12), 48, seed=4, temperature=0.7)
    plain = drive(deep_oracle.model)
    plain.engine.add(request)
    answer = plain.run()[0]
    reference = ReferenceHead(Shape(draft_vocab=320))
    reference.learn(deep_oracle.reference, [*request.prompt_tokens, *answer], num_steps=60)
    model, drafter = guessing(deep_oracle.model, reference.save(tmp_path / "head"))
    driver = drive(model, drafter, max_drafts=2)
    driver.engine.add(request)
    assert driver.run()[0] == answer
    assert driver.num_accepted > 0.7 * driver.num_drafts > 15
    assert driver.num_steps < 0.6 * plain.num_steps


def test_a_head_that_is_never_right_stops_guessing_and_goes_on_following(
    deep_oracle, make_request, make_prompt, tmp_path: Path
) -> None:
    reference, clock = ReferenceHead(Shape()), VirtualClock()
    model, drafter = guessing(deep_oracle.model, reference.save(tmp_path / "head"), 64)
    timed = TimedModel(model, clock, lambda rows: 1.0 + 0.2 * rows)
    config = EngineConfig(num_blocks=64, max_model_len=600)
    kv = torch.full(model.config.kv_shape(64), float("nan"))
    engine = Engine(timed, kv, config, clock, speculator=Speculator(drafter, 4, clock))
    engine.add(make_request(0, make_prompt(9), 140))
    num_drafts = num_steps = 0
    while (plan := engine.schedule()) is not None:
        num_drafts, num_steps = num_drafts + engine.execute(plan).num_drafts, num_steps + 1
    assert 0 < num_drafts < 0.2 * num_steps
    assert len(drafter.found[-1][0]) > 100, "one is tried now and then"
    assert check_guesses(deep_oracle, reference, drafter) > 10


def test_transfers_and_prompts_in_turn_over_a_few_blocks_guess_as_described(
    deep_oracle, drive, guesser, make_request, make_prompt
) -> None:
    """The same prompts come again and again, to blocks that others left their keys in."""
    source = drive(deep_oracle.model)
    driver, drafter, reference = guesser(num_blocks=5)
    prompts = [make_prompt(34), make_prompt(47)]
    prompts += [(*prompt, *deep_oracle.answer(prompt, 8), 7) for prompt in prompts]
    held = {}
    for i, prompt in enumerate(prompts):
        source.engine.add(make_request(i, prompt, 8, prefill_only=True))
        plan = source.engine.schedule()
        held[prompt] = plan.chunks[0].block_ids, source.engine.execute(plan).outputs[0].token
    choose = Random(0)
    for turn in range(24):
        prompt = choose.choice(prompts)
        request = make_request(turn, prompt, 8)
        if choose.random() < 0.4:
            driver.engine.add(request)
        else:
            from_ids, token = held[prompt]
            reservation = driver.engine.reserve(request)
            for a, b in zip(from_ids, reservation.block_ids, strict=True):
                driver.kv[:, b] = source.kv[:, a]
            ready = choose.choice([32, len(prompt)])
            driver.engine.activate(turn, ready, (token,) if ready > 32 else ())
        driver.run()
    assert {first % 16 for _, first, _ in drafter.found} > {0}
    assert check_guesses(deep_oracle, reference, drafter) > 200
