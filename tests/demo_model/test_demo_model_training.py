"""The scripts that made the bundled model: the corpus, the training, the export."""

import json
from argparse import Namespace
from pathlib import Path
from random import Random

import numpy as np
import torch
from ask import fact_topics, held_out_questions, unknown
from corpus import LEARNED, MODEL_DIR, shard
from dialogue import Turn, render
from model import Decoder, Shape
from safetensors.torch import load_file
from tasks_numbers import arithmetic, held_out
from tokenizers import Tokenizer
from train import Trainer, export, learning_rate

TOKENIZER_FILE = str(MODEL_DIR / "tokenizer.json")


def arguments(folder: Path, **changes: object) -> Namespace:
    """The command line of a run that takes a second."""
    np.save(folder / "shard-000.npy", shard(0, 4000, 7, TOKENIZER_FILE))
    chosen = {
        "data": folder, "out": folder, "device": "cpu", "steps": 2, "seconds": 0.0, "lr": 1e-3,
        "batch_tokens": 64, "short_row": 32, "long_row": 64, "seed": 1, "log_every": 1,
        "compile": False,
    }  # fmt: skip
    return Namespace(**(chosen | changes))


def test_a_shard_follows_from_its_seed_and_number():
    first, again, other = (shard(i, 3000, 5, TOKENIZER_FILE) for i in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_high_bit_marks_what_the_assistant_says():
    tokenizer = Tokenizer.from_file(TOKENIZER_FILE)
    segments = render([Turn("user", "What is Baton?"), Turn("assistant", "A system.")])
    assert [s.text for s in segments if s.learned] == ["A system.<|im_end|>"]
    tokens = shard(0, 20_000, 3, TOKENIZER_FILE)
    learned = tokenizer.decode([int(t) & 0x7FFF for t in tokens if t & LEARNED])
    assert "user" not in learned.split()


def test_no_training_question_is_a_held_out_question():
    topics = fact_topics()
    held = {q.lower() for topic in topics for q in held_out_questions(topic)}
    assert not held & {q.lower() for topic in topics for q in topic.questions}


def test_every_topic_has_an_answer_that_holds_its_key_phrase():
    for topic in fact_topics():
        assert topic.questions and topic.key.lower() in topic.answer.lower(), topic.name


def test_training_never_sees_a_held_out_problem():
    rng = Random(4)
    assert all(
        "= " in a or a.lstrip("-").isdigit() for _, a in (arithmetic(rng) for _ in range(50))
    )
    for _ in range(300):
        told = arithmetic(rng)[1]
        if "=" in told:
            a, op, b = told.split(" = ")[0].split()
            assert not held_out(int(a), op, int(b))


def test_unknown_questions_are_filled_in():
    rng = Random(9)
    assert not any("{" in unknown(rng) for _ in range(500))


def test_one_seed_gives_one_training_run(tmp_path):
    losses = []
    for _ in range(2):
        trainer = Trainer(arguments(tmp_path))
        trainer.run()
        trainer.log.close()
        rows = (tmp_path / "training_log.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
    assert losses[0] == losses[1]


def test_the_learning_rate_rises_and_falls_to_a_hundredth():
    rates = [learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert max(rates) == 1.0
    assert rates[0] == 0.01
    assert 0.01 <= rates[-1] < 0.011


def test_transformers_computes_the_same_logits_as_the_training_code(demo_model):
    decoder = Decoder(Shape())
    weights = load_file(MODEL_DIR / "model.safetensors")
    decoder.load_state_dict({k.removeprefix("model."): v.float() for k, v in weights.items()})
    ids = torch.randint(3, 4096, (2, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = decoder(ids) @ decoder.embed_tokens.weight.T
        theirs = demo_model.model(ids).logits
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_an_exported_model_holds_the_names_of_the_bundled_one(tmp_path):
    export(Decoder(Shape()), tmp_path)
    exported, bundled = (load_file(d / "model.safetensors") for d in (tmp_path, MODEL_DIR))
    assert {k: v.shape for k, v in exported.items()} == {k: v.shape for k, v in bundled.items()}
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / name).read_text() == (MODEL_DIR / name).read_text()
