"""Conversations from a JSONL file: `{"messages": [{"role": ..., "content": ...}, ...]}` a line."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from loadtest.arrivals import Floats
from loadtest.json_lines import read_rows
from loadtest.lengths import LengthSpec
from loadtest.plan import ChatMessage, Turn, Workload, number


class DatasetRow(msgspec.Struct, frozen=True):
    """output_tokens: length of the answers; 0: as the run says. class_name: for the report."""

    messages: tuple[ChatMessage, ...]
    output_tokens: int = 0
    class_name: str = msgspec.field(name="class", default="")


def read_dataset(path: Path) -> list[DatasetRow]:
    """All rows. Raises LineError for the first line that cannot be used."""
    return read_rows(path, "dataset", DatasetRow, _wrong)


def _wrong(row: DatasetRow, _: DatasetRow | None) -> str:
    """Why a row cannot be used; empty when it can."""
    if not any(message.role == "user" for message in row.messages):
        return "no message of role user"
    return f"output_tokens is {row.output_tokens}" if row.output_tokens < 0 else ""


def dataset_workload(
    rows: Sequence[DatasetRow],
    times_s: Floats,
    duration_s: float,
    output_tokens: LengthSpec,
    *,
    multi_turn: bool,
    think_s: float,
    seed: int,
    name: str,
) -> Workload:
    """One conversation of the dataset at each of times_s, in the file's order and from the start.

    multi_turn: each user message is a request that waits for the answer before it, and the
    server's answers stand in for the file's. Otherwise a row is one request, up to the last user
    message. duration_s: how long the arrivals go on.
    """
    rng = np.random.default_rng([seed, 4])
    starts: list[tuple[float, Sequence[Turn], str]] = []
    for position, at_s in enumerate(times_s.tolist()):
        row = rows[position % len(rows)]
        parts = _parts(row.messages) if multi_turn else [_whole(row.messages)]
        lengths = output_tokens.draw(len(parts), rng).tolist()
        thinks = (rng.exponential(1.0, len(parts)) * think_s).tolist()
        turns = [
            Turn(row.output_tokens or length, messages=part, think_s=think if place else 0.0)
            for place, (part, length, think) in enumerate(zip(parts, lengths, thinks, strict=True))
        ]
        starts.append((at_s, turns, row.class_name))
    notes = (f"{len(rows)} conversations, repeated as needed",)
    return Workload(number(starts), duration_s, f"dataset {name}", notes)


def _whole(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    last = max(place for place, message in enumerate(messages) if message.role == "user")
    return messages[: last + 1]


def _parts(messages: tuple[ChatMessage, ...]) -> list[tuple[ChatMessage, ...]]:
    """What each turn adds: the messages up to a user message, the answers left out."""
    parts: list[tuple[ChatMessage, ...]] = []
    part: list[ChatMessage] = []
    for message in messages:
        if message.role != "assistant":
            part.append(message)
        if message.role == "user":
            parts.append(tuple(part))
            part = []
    return parts
