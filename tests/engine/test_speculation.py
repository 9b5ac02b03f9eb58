"""An answer is the same with guessed tokens and without, whatever the guesses are."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from timed_model import TimedModel

from engine.engine import Engine
from engine.options import EngineConfig
from engine.speculation.draft_model import DraftModel
from engine.speculation.drafter import Wish
from engine.speculation.lookup import PromptLookup
from engine.speculation.speculator import Speculator
from runtime.clock import VirtualClock
from wire.messages import FinishReason, Grammar, GrammarKind

SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 80}
PENALISED = {
    **SAMPLED,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
}
STYLES = {
    "greedy": {},
    "sampled": SAMPLED,
    "penalised": PENALISED,
    "penalised greedily": {"presence_penalty": 0.4},
    "biased": {"logit_bias": ((5, 2.0), (9, -100.0)), **SAMPLED},
    "min-p": {"temperature": 1.2, "min_p": 0.05},
}


class Clairvoyant:
    """Guesses what the answers are, but for every `wrong`-th token."""

    def __init__(self, answers: dict[int, list[int]], wrong: int = 0) -> None:
        self.answers = answers
        self.wrong = wrong
        self.sizes: Counter[int] = Counter()

    def propose(self, wishes: Sequence[Wish], tables: object) -> list[tuple[int, ...]]:
        return [self._guess(wish) for wish in wishes]

    def _guess(self, wish: Wish) -> tuple[int, ...]:
        at = wish.seq.num_outputs
        self.sizes[wish.count] += 1
        coming = self.answers[wish.seq.seq_id][at : at + wish.count]
        return tuple(
            (token + 1) % 320 if self.wrong and (at + i) % self.wrong == 0 else token
            for i, token in enumerate(coming)
        )


def all_answers(driver, requests) -> dict[int, list[int]]:
    for request in requests:
        driver.engine.add(request)
    return driver.run()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wrong", [0, 1, 2, 5])
def test_every_way_to_choose_gives_the_answer_that_it_gives_without_drafts(
    oracle, drive, make_request, make_prompt, style: str, wrong: int
) -> None:
    requests = [
        make_request(i, make_prompt(11 + 9 * i), 30, seed=i, **STYLES[style]) for i in range(4)
    ]
    plain = drive(oracle.model)
    answers = all_answers(plain, requests)
    guessing = drive(oracle.model, Clairvoyant(answers, wrong))
    assert all_answers(guessing, requests) == answers
    if wrong == 1:
        assert guessing.num_accepted == 0 < guessing.num_drafts
    elif wrong == 0:
        assert guessing.num_accepted == guessing.num_drafts
        assert guessing.num_steps < plain.num_steps / 3


def test_greedy_answers_with_guesses_are_those_of_transformers(
    each_oracle, drive, make_request, make_prompt
) -> None:
    repeating = make_prompt(7) * 5
    driver = drive(each_oracle.model, PromptLookup())
    driver.engine.add(make_request(0, repeating, 60))
    assert driver.run()[0] == each_oracle.answer(repeating, 60)


def test_a_crowded_engine_that_preempts_gives_the_same_answers(
    oracle, drive, make_request, make_prompt
) -> None:
    requests = [make_request(i, make_prompt(9 + i), 40, seed=i, **PENALISED) for i in range(6)]
    answers = all_answers(drive(oracle.model), requests)
    crowded = drive(oracle.model, Clairvoyant(answers, wrong=3), num_blocks=6, max_drafts=20)
    assert all_answers(crowded, requests) == answers
    assert crowded.engine.load().num_preemptions > 0 < crowded.num_accepted


@pytest.mark.parametrize("known", [1, 7, 19])
def test_a_sampled_answer_that_moves_between_guessing_and_plain_engines_goes_on(
    oracle, drive, make_request, make_prompt, known: int
) -> None:
    prompt = make_prompt(21)
    whole = all_answers(drive(oracle.model), [make_request(0, prompt, 30, seed=3, **PENALISED)])[0]
    drafter = Clairvoyant({1: whole}, wrong=4)
    resumed = make_request(1, prompt, 30, seed=3, outputs=tuple(whole[:known]), **PENALISED)
    assert all_answers(drive(oracle.model, drafter), [resumed])[1] == whole[known:]


def test_a_stop_token_inside_the_guess_ends_the_answer_there(
    oracle, drive, make_request, make_prompt
) -> None:
    prompt = make_prompt(10)
    plain = oracle.answer(prompt, 20)
    stop = next(token for i, token in enumerate(plain) if i >= 8 and token not in plain[:i])
    driver = drive(oracle.model, Clairvoyant({0: plain}), max_drafts=8)
    driver.engine.add(make_request(0, prompt, 20, stop_token_ids=(stop,)))
    assert driver.run()[0] == plain[: plain.index(stop) + 1]
    assert driver.streams[0].finish is FinishReason.STOP


def test_no_more_tokens_come_than_asked_for_and_none_is_guessed_behind_them(
    oracle, drive, make_request, make_prompt
) -> None:
    prompt = make_prompt(10)
    plain = oracle.answer(prompt, 40)
    drafter = Clairvoyant(dict.fromkeys(range(12), plain))
    driver = drive(oracle.model, drafter, max_drafts=16)
    for length in range(1, 12):
        driver.engine.add(make_request(length, prompt, length))
    for length, tokens in driver.run().items():
        assert tokens == plain[:length]
    assert driver.num_accepted == driver.num_drafts


def test_log_probabilities_come_with_accepted_tokens_too(
    oracle, drive, make_request, make_prompt
) -> None:
    prompt = make_prompt(20)
    found = {}
    answers = {0: oracle.answer(prompt, 12), 1: oracle.answer(prompt, 12)}
    for drafter in (None, Clairvoyant(answers, wrong=5)):
        driver = drive(oracle.model, drafter)
        driver.engine.add(make_request(0, prompt, 12, top_logprobs=3))
        driver.engine.add(make_request(1, prompt, 12))
        while (plan := driver.engine.schedule()) is not None:
            for output in driver.engine.execute(plan).outputs:
                driver._record(output)
                assert (output.logprobs is None) == (output.seq_id == 1)
                if output.logprobs is not None:
                    found.setdefault(drafter, []).append(output.logprobs)
    plain, guessed = found.values()
    assert [len(one.top) for one in guessed] == [3] * 12
    for one, other in zip(plain, guessed, strict=True):
        assert [token for token, _ in one.top] == [token for token, _ in other.top]
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


class LetterMatcher:
    """Allows a token whose remainder differs from the one before: it has to be told in order."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.last = -1
        self.consume(tokens)

    def allowed(self):
        ids = torch.arange(320)
        return ((ids % 3 != self.last % 3) | (self.last < 0)).numpy()

    def consume(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            assert self.last < 0 or token % 3 != self.last % 3, "a token against the grammar"
            self.last = token


@pytest.mark.parametrize("style", ["greedy", "penalised"])
def test_an_answer_keeps_to_its_grammar_through_guesses(
    oracle, drive, make_request, make_prompt, style: str
) -> None:
    grammar = Grammar(GrammarKind.REGEX, ".")
    requests = [
        make_request(i, make_prompt(9), 24, seed=i, grammar=grammar, **STYLES[style])
        for i in range(3)
    ]

    def guided(drafter=None):
        driver = drive(oracle.model, drafter)
        driver.engine._open_matcher = lambda grammar, tokens: LetterMatcher(tokens)
        return driver

    answers = all_answers(guided(), requests)
    for wrong in (0, 3):
        driver = guided(Clairvoyant(answers, wrong))
        assert all_answers(driver, requests) == answers
        assert driver.num_accepted > 20


class DiceModel:
    """Gives the same few probabilities after every token."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.config = SimpleNamespace(
            vocab_size=len(probabilities), kv_shape=lambda blocks, size: (1, blocks, 2, 1, size, 1)
        )
        self.device = torch.device("cpu")
        self.logits = torch.tensor(probabilities).log()

    def forward(self, batch, kv, on_layers=None):
        return self.logits.repeat(len(batch.logit_rows), 1)


class FirstFace:
    """Guesses the same token again and again."""

    def propose(self, wishes: Sequence[Wish], tables: object) -> list[tuple[int, ...]]:
        return [(0,) * wish.count for wish in wishes]


def chi_square(counted: Sequence[float], wanted: Sequence[float]) -> float:
    return sum((n - w) ** 2 / w for n, w in zip(counted, wanted, strict=True))


def test_drawn_tokens_have_the_models_distribution_whether_guessed_or_not(make_request) -> None:
    probabilities = [0.5, 0.25, 0.15, 0.1]
    config = EngineConfig(
        num_blocks=4000, max_model_len=64, max_batch_tokens=4000, max_num_seqs=800
    )
    kv = torch.zeros(1, 4000, 2, 1, 16, 1)
    clock = VirtualClock()
    engine = Engine(
        DiceModel(probabilities), kv, config, clock, speculator=Speculator(FirstFace(), 4, clock)
    )
    for i in range(800):
        engine.add(make_request(i, (1, 2), 20, temperature=1.0, seed=1000 + i))
    by_place: Counter[tuple[bool, int]] = Counter()  # after how many of the same step
    pairs: Counter[tuple[int, int]] = Counter()
    last: dict[int, int] = {}
    while (plan := engine.schedule()) is not None:
        seen: Counter[int] = Counter()
        for output in engine.execute(plan).outputs:
            by_place[seen[output.seq_id] > 0, output.token] += 1
            seen[output.seq_id] += 1
            if output.seq_id in last:
                pairs[last[output.seq_id], output.token] += 1
            last[output.seq_id] = output.token
    total = sum(pairs.values())
    assert total == 800 * 19 and sum(n for (later, _), n in by_place.items() if later) > 2000
    wanted = [total * p * q for p in probabilities for q in probabilities]
    counted = [pairs[first, second] for first in range(4) for second in range(4)]
    assert chi_square(counted, wanted) < 44.3  # 15 degrees of freedom: 1 in 10,000 is above
    drawn = [sum(by_place[later, token] for later in (True, False)) for token in range(4)]
    shares = [sum(drawn) * p for p in probabilities]
    assert chi_square(drawn, shares) < 21.1  # 3 degrees of freedom, the same


def test_a_draft_model_that_is_the_model_is_always_right(
    oracle, drive, make_request, make_prompt
) -> None:
    for style in (STYLES["greedy"], SAMPLED):
        requests = [make_request(i, make_prompt(20 + i), 30, seed=i, **style) for i in range(3)]
        answers = all_answers(drive(oracle.model), requests)
        driver = drive(oracle.model, draft_model(oracle.model))
        assert all_answers(driver, requests) == answers
        assert driver.num_accepted > 0.97 * driver.num_drafts > 40


def test_another_draft_model_changes_no_answer(
    oracle, oracles, drive, make_request, make_prompt
) -> None:
    requests = [make_request(i, make_prompt(20 + i), 30, seed=i, **PENALISED) for i in range(5)]
    answers = all_answers(drive(oracle.model), requests)
    crowded = drive(oracle.model, draft_model(oracles("Llama").model), num_blocks=9)
    assert all_answers(crowded, requests) == answers
    assert 0 < crowded.num_accepted < crowded.num_drafts


def test_a_draft_model_catches_up_with_a_long_prompt_a_budget_at_a_time(
    oracle, drive, make_request, make_prompt
) -> None:
    prompts = {0: make_prompt(200), 1: make_prompt(12)}
    driver = drive(oracle.model, draft_model(oracle.model, max_tokens=32))
    for seq_id, prompt in prompts.items():
        driver.engine.add(make_request(seq_id, prompt, 40))
    found = driver.run()
    assert found == {i: oracle.answer(prompt, 40) for i, prompt in prompts.items()}
    assert driver.num_accepted > 40


def draft_model(model, max_tokens: int = 512) -> DraftModel:
    kv = torch.full(model.config.kv_shape(256), float("nan"))
    return DraftModel(model, kv, model.config.vocab_size, max_tokens)


@pytest.mark.parametrize(
    ("wrong", "cost", "most"),
    [
        (1, lambda rows: 1.0 + 0.2 * rows, 0.2),  # never right
        (0, lambda rows: float(rows), 0.2),  # right, and each token costs a step
        (0, lambda rows: 1.0 + 0.01 * rows, 4.0),  # right and nearly free
    ],
)
def test_drafts_that_do_not_pay_stop_by_themselves(
    oracle, make_request, make_prompt, wrong: int, cost, most: float
) -> None:
    prompt, clock = make_prompt(9), VirtualClock()
    answer = oracle.answer(prompt, 400)
    drafter = Clairvoyant({0: answer}, wrong)
    config = EngineConfig(num_blocks=64, max_model_len=600)
    kv = torch.full(oracle.model.config.kv_shape(64), float("nan"))
    model = TimedModel(oracle.model, clock, cost)
    engine = Engine(model, kv, config, clock, speculator=Speculator(drafter, 4, clock))
    engine.add(make_request(0, prompt, 400))
    tokens, num_drafts, num_steps = [], 0, 0
    while (plan := engine.schedule()) is not None:
        result = engine.execute(plan)
        tokens.extend(output.token for output in result.outputs)
        num_drafts, num_steps = num_drafts + result.num_drafts, num_steps + 1
    assert tokens == answer
    if most < 1:
        assert num_drafts < most * num_steps
    else:
        assert num_drafts > 0.9 * most * (num_steps - 6)
    engine.check_integrity()
