"""Traces: what is refused and where, and that replays keep the trace's sharing of prefixes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import LineError, LoadtestError
from loadtest.order import Order, plan_workload
from loadtest.plan import Segment
from loadtest.tokens import TokenBlocks, WordBlocks
from loadtest.trace import TraceRow, TraceScaling, read_trace, trace_workload
from wire.block_hash import block_hashes

GOOD = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts))
    return path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("[1]", "Expected `object`"),
        ({**GOOD, "input_length": -4}, "at least 1"),
        ({**GOOD, "output_length": 0}, "at least 1"),
        ({**GOOD, "timestamp": -1}, "not a time"),
        ({**GOOD, "timestamp": 5}, "earlier than the one before"),
        ({**GOOD, "timestamp": 20, "hash_ids": [0]}, "1 hash_ids, but 600 tokens are 2 blocks"),
        ({**GOOD, "timestamp": 20, "hash_ids": [0, -7]}, "negative"),
        ({**GOOD, "timestamp": 20, "hash_ids": "x"}, "Expected `array`"),
        ({"timestamp": 20}, "missing required field"),
        ('{"timestamp": 1, "input_length": "\xff"}', "Expected `int`"),
    ],
)
def test_a_broken_line_is_named_by_number_and_reason(
    tmp_path: Path, line: object, reason: str
) -> None:
    path = write(tmp_path / "t.jsonl", GOOD, {**GOOD, "timestamp": 10}, "", line)
    with pytest.raises(LineError, match=reason) as caught:
        read_trace(path)
    assert caught.value.line == 4
    assert str(caught.value).startswith(f"{path}, line 4: ")


def test_bytes_that_are_no_text_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"timestamp": "\xff\xfe"}\n')
    with pytest.raises(LineError) as caught:
        read_trace(path)
    assert caught.value.line == 2


def test_an_absent_or_empty_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match="cannot read the trace"):
        read_trace(tmp_path / "none.jsonl")
    with pytest.raises(LoadtestError, match="has no lines"):
        read_trace(write(tmp_path / "empty.jsonl"))


@st.composite
def traces(draw: st.DrawFn) -> list[TraceRow]:
    """Requests whose id lists are paths in a tree, as in a real trace."""
    paths: list[tuple[int, ...]] = [()]
    rows, next_id = [], 0
    for place in range(draw(st.integers(1, 12))):
        shared = draw(st.sampled_from(paths))
        num_own = draw(st.integers(1, 4))
        ids = (*shared, *range(next_id, next_id + num_own))
        next_id += num_own
        paths += [ids[: end + 1] for end in range(len(ids) - 1)]
        length = (len(ids) - 1) * 512 + draw(st.integers(1, 512))
        rows.append(TraceRow(place // 3 * 1000, length, draw(st.integers(1, 50)), ids))
    return rows


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@given(traces(), st.sampled_from([1 / 32, 1 / 16, 1 / 8, 0.3]), st.integers(0, 5))
def test_scaled_prompts_share_exactly_the_blocks_that_the_trace_shares(
    rows: list[TraceRow], scale: float, seed: int
) -> None:
    """Counted with the very hashes by which the server finds its blocks."""
    scaling = TraceScaling(length_scale=scale)
    block = scaling.scaled_block_tokens
    workload = trace_workload(rows, scaling, "t", seed)
    maker = TokenBlocks(300, 1000, seed)
    prompts = [
        maker.tokens(conversation.turns[0].segments).tolist()
        for conversation in workload.conversations
    ]
    hashes = [tuple(block_hashes(prompt)) for prompt in prompts]
    for i, first in enumerate(rows):
        for j, second in enumerate(rows[:i]):
            num_shared_ids = common(first.hash_ids, second.hash_ids)
            full = min(num_shared_ids, len(first.hash_ids) - 1, len(second.hash_ids) - 1)
            num_shared = common(hashes[i], hashes[j])
            assert num_shared >= full * block // 16
            if num_shared_ids < min(len(first.hash_ids), len(second.hash_ids)):
                assert num_shared == num_shared_ids * block // 16


@given(traces(), st.sampled_from([1.0, 1 / 32, 0.5, 2.0]))
def test_scaled_lengths_are_the_scaled_trace(rows: list[TraceRow], scale: float) -> None:
    scaling = TraceScaling(length_scale=scale)
    workload = trace_workload(rows, scaling, "t", 0)
    for row, conversation in zip(rows, workload.conversations, strict=True):
        expected = row.input_length * scaling.input_scale
        assert abs(conversation.turns[0].num_input - expected) <= 1
        assert conversation.turns[0].num_output == row.output_length


def test_a_replay_has_the_traces_times_scaled() -> None:
    rows = [TraceRow(1000 * place, 10, 1, (place,)) for place in range(10)]
    scaling = TraceScaling(time_scale=4, spread=False, start_s=2.0, end_s=8.0)
    workload = trace_workload(rows, scaling, "t", 0)
    assert [c.at_s for c in workload.conversations] == [k / 4 for k in range(6)]
    assert workload.duration_s == 1.25


def test_long_prompts_and_answers_are_cut_where_asked() -> None:
    rows = [TraceRow(0, 1500, 80, (0, 1, 2))]
    scaling = TraceScaling(max_input=700, max_output=9)
    turn = trace_workload(rows, scaling, "t", 0).conversations[0].turns[0]
    assert turn.segments == (Segment(0, 512), Segment(1, 188))
    assert turn.num_output == 9


def test_the_report_says_by_how_much_a_trace_was_scaled() -> None:
    rows = [TraceRow(0, 600, 5, (0, 1))]
    workload = trace_workload(rows, TraceScaling(2.0, 0.05, 0.5), "t", 0)
    notes = "; ".join(workload.notes)
    assert "time x2" in notes
    assert "prompt lengths x0.0625 (blocks of 512 became 32 tokens)" in notes
    assert "answer lengths x0.5" in notes


def test_a_part_without_requests_is_refused() -> None:
    rows = [TraceRow(0, 10, 1, (0,))]
    with pytest.raises(LoadtestError, match="no request"):
        trace_workload(rows, TraceScaling(start_s=50), "t", 0)


def test_an_order_takes_a_part_of_a_trace(tmp_path: Path) -> None:
    rows = [{**GOOD, "timestamp": 1000 * place} for place in range(20)]
    path = write(tmp_path / "t.jsonl", *rows)
    scaling = TraceScaling(time_scale=2.0, spread=False)
    assert plan_workload(Order(trace=path, duration="4s", scaling=scaling)).num_requests == 8
    assert plan_workload(Order(trace=path, requests=3)).num_requests == 3


segment_lists = st.lists(
    st.builds(Segment, st.integers(0, 1 << 61), st.integers(1, 40)), max_size=6
)


@given(segment_lists, st.integers(0, 1 << 40))
def test_a_block_has_the_same_tokens_wherever_it_stands(segments: list[Segment], seed: int) -> None:
    maker = TokenBlocks(300, 1000, seed)
    apart = [maker.tokens([segment]) for segment in segments]
    together = maker.tokens(segments)
    assert together.tolist() == [token for block in apart for token in block.tolist()]
    assert ((together >= 300) & (together < 1000)).all()


@given(st.integers(0, 1 << 61), st.integers(2, 64), st.integers(1, 63))
def test_a_shorter_piece_of_a_block_is_its_prefix(block_id: int, length: int, cut: int) -> None:
    maker = TokenBlocks(0, 50_000, 1)
    cut = min(cut, length)
    whole = maker.tokens([Segment(block_id, length)])
    assert np.array_equal(maker.tokens([Segment(block_id, cut)]), whole[:cut])


def test_blocks_of_different_ids_and_seeds_differ() -> None:
    blocks = {
        tuple(TokenBlocks(300, 1000, seed).tokens([Segment(block_id, 16)]).tolist())
        for block_id in range(3000)
        for seed in (0, 1)
    }
    assert len(blocks) == 6000


def test_synthetic_tokens_are_spread_over_their_range() -> None:
    tokens = TokenBlocks(0, 100, 0).tokens([Segment(place, 512) for place in range(200)])
    counts = np.bincount(tokens, minlength=100)
    assert counts.std() == pytest.approx(math.sqrt(1024), rel=0.3)


def test_text_of_equal_blocks_is_equal() -> None:
    words = WordBlocks(("red", "green", "blue"), 3)
    a, b = Segment(1, 5), Segment(2, 4)
    assert words.text([a, b]) == words.text([a]) + words.text([b])
    assert len(words.text([a, b]).split()) == 9
