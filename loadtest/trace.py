"""Replays of traces in the Mooncake format: one JSON object a line.

`timestamp` (milliseconds), `input_length`, `output_length` (tokens) and `hash_ids`, one id per
block of 512 tokens: equal ids mean an equal block behind an equal prefix. (Qin et al., "Mooncake:
A KVCache-centric Disaggregated Architecture for LLM Serving", FAST 2025, and its data release.)
"""

import math
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from loadtest.arrivals import spread_in_ticks
from loadtest.errors import LoadtestError
from loadtest.json_lines import read_rows
from loadtest.plan import Segment, Turn, Workload, number

KV_BLOCK_TOKENS = 16  # blocks of scaled prompts stay a multiple of this, so that hits are whole


class TraceRow(msgspec.Struct, frozen=True):
    """One line. class_name is optional and not part of the published format."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]
    class_name: str = msgspec.field(name="class", default="")


@dataclass(frozen=True, slots=True)
class TraceScaling:
    """How a trace is made to fit.

    time_scale: 2 replays at twice the rate. length_scale: of prompts, rounded so that a block stays
    a multiple of 16 tokens. block_tokens: what one hash id stands for in the file. start_s, end_s:
    the part of the trace to replay, in its own time. max_input, max_output: longer ones are cut.
    """

    time_scale: float = 1.0
    length_scale: float = 1.0
    output_scale: float = 1.0
    block_tokens: int = 512
    start_s: float = 0.0
    end_s: float = math.inf
    max_input: int = 0
    max_output: int = 0
    spread: bool = True

    @property
    def scaled_block_tokens(self) -> int:
        whole = round(self.block_tokens * self.length_scale / KV_BLOCK_TOKENS)
        return self.block_tokens if self.length_scale == 1 else max(1, whole) * KV_BLOCK_TOKENS

    @property
    def input_scale(self) -> float:
        """The scale of prompts after rounding."""
        return self.scaled_block_tokens / self.block_tokens


def read_trace(path: Path, block_tokens: int = 512) -> list[TraceRow]:
    """All rows. Raises LineError for the first line that is broken, before any load is sent."""

    def wrong(row: TraceRow, last: TraceRow | None) -> str:
        return _wrong(row, 0.0 if last is None else last.timestamp, block_tokens)

    return read_rows(path, "trace", TraceRow, wrong)


def trace_workload(rows: list[TraceRow], scaling: TraceScaling, name: str, seed: int) -> Workload:
    """The requests of a trace. The same seed gives the same workload."""
    ticks_s = np.array([row.timestamp for row in rows]) / 1000
    rng = np.random.default_rng([seed, 1])
    times_s = spread_in_ticks(ticks_s, rng) if scaling.spread else ticks_s
    first_s = max(float(ticks_s[0]), scaling.start_s)
    chosen = [
        ((at_s - first_s) / scaling.time_scale, row)
        for at_s, row in zip(times_s.tolist(), rows, strict=True)
        if scaling.start_s <= at_s < scaling.end_s
    ]
    if not chosen:
        raise LoadtestError(f"no request of {name} lies in the part of it that was asked for")
    conversations = number((at_s, (_turn(row, scaling),), row.class_name) for at_s, row in chosen)
    return Workload(conversations, chosen[-1][0], f"trace {name}", _notes(scaling, rows, chosen))


def _turn(row: TraceRow, scaling: TraceScaling) -> Turn:
    """The prompt's blocks at their scaled length; the last one is as long as is left."""
    block = scaling.scaled_block_tokens
    num_before = len(row.hash_ids) - 1
    rest = row.input_length - num_before * scaling.block_tokens
    num_rest = min(block, max(1, math.ceil(rest * scaling.input_scale)))
    segments = [Segment(block_id, block) for block_id in row.hash_ids[:-1]]
    segments.append(Segment(row.hash_ids[-1], num_rest))
    if scaling.max_input:
        segments = _cut(segments, scaling.max_input)
    num_output = max(1, round(row.output_length * scaling.output_scale))
    limit = scaling.max_output or num_output
    return Turn(min(num_output, limit), tuple(segments))


def _cut(segments: list[Segment], limit: int) -> list[Segment]:
    kept: list[Segment] = []
    for segment in segments:
        room = limit - sum(num_tokens for _, num_tokens in kept)
        if room <= 0:
            break
        kept.append(Segment(segment.block_id, min(segment.num_tokens, room)))
    return kept


def _wrong(row: TraceRow, before: float, block_tokens: int) -> str:
    """Why a row cannot be used; empty when it can."""
    if row.input_length < 1 or row.output_length < 1:
        return f"lengths must be at least 1: {row.input_length} in, {row.output_length} out"
    if not 0 <= row.timestamp < math.inf:
        return f"the timestamp {row.timestamp:g} is not a time"
    if row.timestamp < before:
        return f"the timestamp {row.timestamp:g} is earlier than the one before, {before:g}"
    expected = math.ceil(row.input_length / block_tokens)
    if len(row.hash_ids) != expected:
        tokens = f"{row.input_length} tokens are {expected} blocks of {block_tokens}"
        return f"{len(row.hash_ids)} hash_ids, but {tokens}"
    if min(row.hash_ids) < 0 or max(row.hash_ids) >= 1 << 62:
        return "a hash id is negative or over 62 bits"
    return ""


def _notes(
    scaling: TraceScaling, rows: list[TraceRow], chosen: list[tuple[float, TraceRow]]
) -> tuple[str, ...]:
    notes = [f"{len(chosen)} of {len(rows)} requests", f"time x{scaling.time_scale:g}"]
    if scaling.length_scale != 1:
        block = f"blocks of {scaling.block_tokens} became {scaling.scaled_block_tokens} tokens"
        notes.append(f"prompt lengths x{scaling.input_scale:g} ({block})")
    if scaling.output_scale != 1:
        notes.append(f"answer lengths x{scaling.output_scale:g}")
    for limit, what in ((scaling.max_input, "prompts"), (scaling.max_output, "answers")):
        if limit:
            notes.append(f"{what} cut at {limit} tokens")
    notes.append("arrivals spread inside ticks" if scaling.spread else "arrivals on ticks")
    return tuple(notes)
