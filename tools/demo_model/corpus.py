"""Writes the training corpus: shards of token ids, each determined by the seed and its number.

A shard is an array of uint16. The low 15 bits are the token id; the high bit marks tokens that
count fully in the loss (what the assistant says, and plain text).

    python tools/demo_model/corpus.py --shards 96 --out build/demo_model
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random

import numpy as np
from ask import (
    LONG_FRAMES,
    MORE,
    UNKNOWN,
    fact_topics,
    long_question,
    question,
    reword,
    unknown,
    vary,
)
from dialogue import Segment, Turn, render
from lexicon import Topic, topics
from tasks_data import (
    JSON_ONLY,
    json_list,
    json_object,
    json_person,
    lookup,
    memory,
    record,
    tool_use,
)
from tasks_numbers import NUMBER_TASKS
from tasks_text import letter, plain_document, sentences, story
from tasks_words import WORD_TASKS, Exchange
from tokenizers import Tokenizer

LEARNED = 1 << 15
SEED = 20261120
MODEL_DIR = Path(__file__).parents[2] / "baton" / "demo_model"

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are Baton's demonstration model.",
    "You are a friendly assistant.",
    "You are a concise assistant.",
    "Answer the questions of the user.",
    "You help users of Baton.",
    "Be brief and correct.",
    "You are an assistant for platform engineers. Answer in simple English.",
)
AGAIN = (
    "Say that again.",
    "Repeat your last answer.",
    "Please repeat that.",
    "Can you repeat that?",
)


def weighted(rng: Random, tasks: dict[Callable[[Random], Exchange], float]) -> Exchange:
    """One exchange from a table of generators and their weights."""
    return rng.choices(tuple(tasks), tuple(tasks.values()))[0](rng)


@cache
def _topic_weights() -> tuple[tuple[Topic, ...], tuple[float, ...]]:
    every = fact_topics()
    weights = tuple(2.0 + 0.15 * len(t.questions) + (1.0 if t.long_answer else 0.0) for t in every)
    return every, weights


def fact(rng: Random) -> list[Exchange]:
    """A question on a topic, sometimes with a follow-up that asks for more."""
    topic = rng.choices(*_topic_weights())[0]
    if topic.long_answer and topic.terms and rng.random() < 0.25:
        return [(reword(rng, long_question(rng, topic)), topic.long_answer)]
    exchanges = [(reword(rng, question(rng, topic)), topic.answer)]
    if rng.random() < 0.12:
        more = topic.long_answer or "That is all I know about it."
        exchanges.append((vary(rng, rng.choice(MORE)), more))
    return exchanges


def long_fallback(rng: Random) -> list[Exchange]:
    """A question for details on a topic that has no long answer: the short one is given."""
    topic = rng.choice(topics("facts.txt"))
    if not topic.terms or topic.long_answer:
        return fact(rng)
    asked = rng.choice(LONG_FRAMES).format(t=rng.choice(topic.terms))
    return [(vary(rng, asked), topic.answer)]


def exchanges(rng: Random) -> list[Exchange]:
    """One or two connected exchanges of any kind."""
    kind = rng.random()
    if kind < 0.40:
        return fact(rng)
    if kind < 0.43:
        return long_fallback(rng)
    if kind < 0.52:
        return [(reword(rng, unknown(rng)), UNKNOWN)]
    if kind < 0.70:
        asked, answer = weighted(rng, NUMBER_TASKS)
        return [(vary(rng, asked) if rng.random() < 0.3 else asked, answer)]
    if kind < 0.86:
        return [weighted(rng, WORD_TASKS)]
    if kind < 0.94:
        return [rng.choice((json_object, json_object, json_person, json_list))(rng)]
    return [rng.choice((story, story, sentences, letter))(rng)]


def turns_of(pairs: Sequence[Exchange]) -> list[Turn]:
    """Exchanges as user and assistant turns."""
    return [
        Turn(role, text)
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def chat(rng: Random) -> list[Turn]:
    """A conversation of one to several exchanges, a few of them very long."""
    draw = rng.random()
    wanted = 1 if draw < 0.5 else rng.randint(2, 4) if draw < 0.96 else rng.randint(8, 40)
    pairs: list[Exchange] = []
    while len(pairs) < wanted:
        pairs += exchanges(rng)
        if rng.random() < 0.02:
            pairs.append((rng.choice(AGAIN), pairs[-1][1]))
    return _with_system(rng, turns_of(pairs))


def _with_system(rng: Random, turns: list[Turn]) -> list[Turn]:
    return [Turn("system", rng.choice(SYSTEMS)), *turns] if rng.random() < 0.35 else turns


def recall(rng: Random) -> list[Turn]:
    """Something said at the beginning and asked for after other exchanges."""
    first, asked, answer = memory(rng)
    between: list[Exchange] = []
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 5, 12))):
        between += exchanges(rng)
    return _with_system(rng, [*first, *turns_of(between), asked, answer])


def json_system(rng: Random) -> list[Turn]:
    """A system message that asks for JSON, and bare values from the user."""
    data = record(rng)
    spoken = ", ".join(f"{k} {json.dumps(v).strip(chr(34))}" for k, v in data.items())
    return [
        Turn("system", rng.choice(JSON_ONLY)),
        Turn("user", spoken),
        Turn("assistant", json.dumps(data)),
    ]


def lookups(rng: Random) -> list[Turn]:
    """A text of 3 to 150 coded things and a question about one."""
    num_records = int(3 * 50 ** rng.random() ** 0.8)
    return _with_system(rng, turns_of([lookup(rng, num_records)]))


def document(rng: Random) -> list[Segment]:
    """One training document as segments of text."""
    kind = rng.random()
    if kind < 0.07:
        return plain_document(rng)
    if kind < 0.13:
        return render(tool_use(rng, exchanges(rng)[0]))
    if kind < 0.18:
        return render(recall(rng))
    if kind < 0.20:
        return render(json_system(rng))
    if kind < 0.24:
        return render(lookups(rng))
    return render(chat(rng))


def shard(index: int, num_tokens: int, seed: int, tokenizer_file: str) -> np.ndarray:
    """One shard: documents until `num_tokens` are reached.  # [num_tokens] uint16"""
    rng = Random(f"{seed}/{index}")
    tokenizer = Tokenizer.from_file(tokenizer_file)
    parts: list[np.ndarray] = []
    size = 0
    while size < num_tokens:
        segments = [s for _ in range(200) for s in document(rng)]
        encoded = tokenizer.encode_batch([s.text for s in segments], add_special_tokens=False)
        for segment, ids in zip(segments, encoded, strict=True):
            parts.append(np.array(ids.ids, dtype=np.uint16) | (LEARNED if segment.learned else 0))
            size += len(ids.ids)
    return np.concatenate(parts)[:num_tokens]


def write_shard(index: int, num_tokens: int, seed: int, tokenizer_file: str, out: Path) -> Path:
    """Writes shard-INDEX.npy and returns its path."""
    path = out / f"shard-{index:03}.npy"
    np.save(path, shard(index, num_tokens, seed, tokenizer_file))
    return path


def main() -> None:
    """Writes all shards with one process a core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=96)
    parser.add_argument("--shard-tokens", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--tokenizer", default=str(MODEL_DIR / "tokenizer.json"))
    parser.add_argument("--out", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write = partial(
        write_shard,
        num_tokens=args.shard_tokens,
        seed=args.seed,
        tokenizer_file=args.tokenizer,
        out=args.out,
    )
    with multiprocessing.Pool(args.processes) as pool:
        for path in pool.imap(write, range(args.shards)):
            print(path, flush=True)


if __name__ == "__main__":
    main()
