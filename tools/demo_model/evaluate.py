"""Measures the trained model on questions that training never saw, and prints sample dialogues.

python tools/demo_model/evaluate.py --json tools/demo_model/evaluation.json
python tools/demo_model/evaluate.py --dialogues
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from ask import HELD_OUT_FRAMES, UNKNOWN, fact_topics, held_out_questions, reword
from corpus import MODEL_DIR, recall
from dialogue import Turn
from lexicon import words
from samples import DIALOGUES
from tasks_data import json_list, json_object, json_person, lookup, tool_use
from tasks_numbers import (
    arithmetic,
    compare,
    count,
    small_sum,
    sort_numbers,
    true_or_false,
    word_problem,
)
from tasks_words import (
    capital,
    copy,
    letter_case,
    list_members,
    pick,
    reverse,
    sequences,
    sort_words,
    spell,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

SEED = "evaluation"
PER_TASK = 100
BATCH = 50
TASKS: dict[str, Callable[[Random], tuple[str, str]]] = {
    "arithmetic": partial(arithmetic, evaluation=True),
    "arithmetic: three numbers": small_sum,
    "arithmetic: word problems": word_problem,
    "numbers: compare": compare,
    "numbers: true or false": true_or_false,
    "numbers: sort, largest, smallest": sort_numbers,
    "numbers: count": count,
    "words: copy": copy,
    "words: reverse order": reverse,
    "words: sort": sort_words,
    "words: upper and lower case": letter_case,
    "words: first, last, how many": pick,
    "words: spell": spell,
    "lists": list_members,
    "days, months, alphabet": sequences,
    "capitals (all seen)": capital,
    "json: object": json_object,
    "json: from a sentence": json_person,
    "json: list": json_list,
    "lookup in 5 records": partial(lookup, num_records=5),
    "lookup in 20 records": partial(lookup, num_records=20),
    "lookup in 60 records": partial(lookup, num_records=60),
    "lookup in 120 records": partial(lookup, num_records=120),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt; right if the answer equals `wanted`, or holds it where `partly`."""

    task: str
    turns: list[Turn]
    wanted: str
    partly: bool = False

    def is_right(self, answer: str) -> bool:
        """Whether the answer counts."""
        if self.partly:
            return self.wanted.lower() in answer.lower()
        return answer == self.wanted


def fact_cases(rng: Random) -> Iterator[Case]:
    """Held-out questions on every topic, as written and with changed wording."""
    for topic in fact_topics():
        for question in held_out_questions(topic):
            yield Case("facts", [Turn("user", question)], topic.key, partly=True)
            yield Case("facts, reworded", [Turn("user", reword(rng, question))], topic.key, True)


def unknown_cases() -> Iterator[Case]:
    """Questions about things that no training text names."""
    for term in words("held_unknown_terms"):
        for frame in ("What is {t}?", "Can you explain {t}?", *HELD_OUT_FRAMES[:2]):
            yield Case("unknown terms", [Turn("user", frame.format(t=term))], UNKNOWN)


def dialogue_cases(rng: Random) -> Iterator[Case]:
    """Recall over several turns, and tool calls."""
    for _ in range(PER_TASK):
        turns = recall(rng)
        yield Case("recall over turns", turns[:-1], turns[-1].content)
        used = tool_use(rng, ("Hello", "Hello! I am Baton's demonstration model."))
        if used[2].content.startswith("<tool_call>"):
            yield Case("tools: call", used[:2], used[2].content)
        if len(used) > 4:
            yield Case("tools: answer from the result", used[:-1], used[-1].content)


def cases() -> list[Case]:
    """All cases, the same at every run."""
    rng = Random(SEED)
    found = [*fact_cases(rng), *unknown_cases(), *dialogue_cases(rng)]
    for name, task in TASKS.items():
        for _ in range(PER_TASK if not name.startswith("lookup") else PER_TASK // 4):
            question, answer = task(rng)
            found.append(Case(name, [Turn("user", question)], answer))
    return found


class Model:
    """The model directory through transformers, greedy."""

    def __init__(self, directory: Path, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self.model = model.to(device).eval()

    def prompt(self, turns: list[Turn]) -> str:
        """The text that the model continues."""
        messages = [{"role": t.role, "content": t.content} for t in turns]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    @torch.no_grad()
    def answers(self, prompts: list[str], max_new_tokens: int = 640) -> list[str]:
        """Greedy continuations of some prompts."""
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True).to(self.model.device)
        batch.pop("token_type_ids", None)
        ids = self.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        new = ids[:, batch["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(new, skip_special_tokens=True)


def measure(model: Model, verbose: bool) -> dict[str, dict[str, object]]:
    """The share of right answers for each task."""
    todo = sorted(cases(), key=lambda c: (len(model.prompt(c.turns)), c.task))
    right: dict[str, list[bool]] = {}
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        answers = model.answers([model.prompt(c.turns) for c in batch])
        for case, answer in zip(batch, answers, strict=True):
            right.setdefault(case.task, []).append(case.is_right(answer))
            if verbose and not case.is_right(answer):
                asked = case.turns[-1].content[-200:]
                print(
                    f"{case.task}\n  Q {asked!r}\n  A {answer[:200]!r}\n  W {case.wanted[:200]!r}"
                )
    return {
        task: {"right": sum(hits), "asked": len(hits), "share": round(sum(hits) / len(hits), 3)}
        for task, hits in sorted(right.items())
    }


def show_dialogues(model: Model) -> None:
    """Prints the sample dialogues as Markdown."""
    for number, dialogue in enumerate(DIALOGUES, 1):
        turns: list[Turn] = []
        print(f"**{number}.**\n")
        for said in dialogue:
            role = "system" if said.startswith("SYSTEM ") else "user"
            turns.append(Turn(role, said.removeprefix("SYSTEM ")))
            print(f"> {role}: {turns[-1].content}\n>")
            if role == "user":
                turns.append(Turn("assistant", model.answers([model.prompt(turns)])[0]))
                quoted = turns[-1].content.replace("\n", "\n> ")
                print(f"> assistant: {quoted}\n>")
        print()


def main() -> None:
    """Evaluates or shows dialogues."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dialogues", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = Model(args.model, args.device)
    if args.dialogues:
        show_dialogues(model)
        return
    results = measure(model, args.verbose)
    for task, row in results.items():
        print(f"{task:36} {row['right']:5} of {row['asked']:5}  {row['share']:.3f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
