"""A worker that guesses tokens: its settings, its answers and its metrics."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from eagle_heads import ReferenceHead, Shape
from leg_runs import greedy, handed_over, run_leg

import baton
from engine.errors import ModelError
from runtime.metrics import WORKER_METRICS, Metrics
from wire.block_hash import block_hashes
from wire.messages import GenerateRequest, LegFinished, LegTokens, SamplingParams, StartLeg
from worker.build import build
from worker.commands import Join, Start
from worker.config import WorkerConfig
from worker.metrics import WorkerMeter

DEMO = Path(baton.__file__).parent / "demo_model"
PLAIN = WorkerConfig(str(DEMO), kv_memory="16MiB", dtype="float32", threads=1, max_model_len=512)
PROMPT = tuple(range(40, 70)) * 2
HEAD = Shape(256, 256, 8, 2, 32, 320, 4096, 1000)
GUESSING = {
    "lookup": {"speculate": "lookup"},
    "model": {"speculate": "model", "draft_model": str(DEMO)},
}


def answers(config: WorkerConfig, are_right: bool) -> tuple[dict[int, list[int]], Metrics]:
    """Two legs, one greedy and one drawn, through a whole worker's core, whose guesses are or are
    never right."""
    metrics = Metrics(WORKER_METRICS)
    meter = WorkerMeter(metrics, "w", "m", 0)
    found: dict[int, list[int]] = {1: [], 2: []}
    finished = 0
    longest = 0
    with build(config) as parts:
        parts.core.apply(Join(1))
        for leg_id, temperature in ((1, 0.0), (2, 0.8)):
            sampling = SamplingParams(
                temperature=temperature, seed=7, max_tokens=60, ignore_eos=True
            )
            request = GenerateRequest(
                f"r{leg_id}", PROMPT, sampling, block_hashes=tuple(block_hashes(PROMPT))
            )
            parts.core.apply(Start(1, StartLeg(leg_id, request)))
        while (plan := parts.core.begin_step()) is not None:
            parts.core.run_step(plan)
            outbox = parts.core.take_outbox()
            meter.observe(outbox)
            for event in outbox.events.get(1, ()):
                if isinstance(event, LegTokens):
                    assert event.index == len(found[event.leg_id])
                    found[event.leg_id].extend(event.tokens)
                    longest = max(longest, len(event.tokens))
                finished += isinstance(event, LegFinished)
        parts.core.check_integrity()
    assert finished == 2
    assert (longest > 1) == are_right, "a step's tokens come in one event"
    return found, metrics


@pytest.fixture(scope="module")
def plain() -> Iterator[dict[int, list[int]]]:
    yield answers(PLAIN, are_right=False)[0]


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> WorkerConfig:
    """A worker whose guesses are a random head's."""
    head = ReferenceHead(HEAD).save(tmp_path_factory.mktemp("head"))
    return replace(PLAIN, speculate="model", draft_model=str(head))


@pytest.mark.parametrize("kind", GUESSING)
def test_a_guessing_worker_gives_the_same_answers_and_counts_its_guesses(
    plain: dict[int, list[int]], kind: str
) -> None:
    found, metrics = answers(replace(PLAIN, **GUESSING[kind]), are_right=True)
    assert found == plain
    drafts = metrics.counter("baton_worker_draft_tokens_total")._value.get()
    accepted = metrics.counter("baton_worker_accepted_draft_tokens_total")._value.get()
    assert 0 < accepted <= drafts
    # The prompt's step gives each answer its first token.
    assert metrics.counter("baton_worker_decode_tokens_total")._value.get() == 2 * 59


def test_a_worker_with_a_head_gives_the_same_answers_and_counts_its_guesses(
    plain: dict[int, list[int]], headed: WorkerConfig
) -> None:
    found, metrics = answers(headed, are_right=False)
    assert found == plain
    assert metrics.counter("baton_worker_draft_tokens_total")._value.get() > 0


def test_a_worker_with_a_head_goes_on_with_a_prompt_from_another(headed: WorkerConfig) -> None:
    request = greedy(PROMPT, 24)
    with build(PLAIN) as source, build(headed) as target:
        alone, _ = run_leg(source, StartLeg(1, request))
        assert handed_over(source, target, request, 2)[0] == alone
        assert target.core.report().num_blocks < source.core.report().num_blocks
        assert target.fingerprint == source.fingerprint


def test_a_head_of_another_model_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    other = ReferenceHead(Shape()).save(tmp_path / "head")
    config = replace(PLAIN, speculate="model", draft_model=str(other))
    with pytest.raises(ModelError, match="hidden_size 64; this one has 256"), build(config):
        pass


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"speculate": "often"}, "'often' is not one of off, lookup, model"),
        ({"speculate": "lookup", "max_drafts": 0}, "max_drafts must be 1 to 64, is 0"),
        ({"speculate": "lookup", "max_drafts": 65}, "max_drafts must be 1 to 64, is 65"),
        ({"speculate": "model"}, "go together"),
        ({"speculate": "lookup", "draft_model": str(DEMO)}, "go together"),
        ({"speculate": "lookup", "profile": "llama-3.1-8b@h200"}, "a profile is set"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(settings, named: str) -> None:
    with pytest.raises(ValueError, match=named), build(replace(PLAIN, **settings)):
        pass


def changed_copy(directory: Path, file: str, **changes: object) -> Path:
    shutil.copytree(DEMO, directory)
    content = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps({**content, **changes}))
    return directory


def test_a_draft_model_with_other_tokens_is_refused(tmp_path: Path) -> None:
    other = changed_copy(tmp_path / "other", "tokenizer.json", model={"vocab": {"a": 0}})
    config = replace(PLAIN, speculate="model", draft_model=str(other))
    with pytest.raises(ModelError, match="other tokens"), build(config):
        pass


def test_a_draft_model_with_a_shorter_context_is_refused(tmp_path: Path) -> None:
    short = changed_copy(tmp_path / "short", "config.json", max_position_embeddings=256)
    config = replace(PLAIN, speculate="model", draft_model=str(short))
    with pytest.raises(ModelError, match="256 tokens of context; 512 are served"), build(config):
        pass
