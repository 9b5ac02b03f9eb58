"""Orders as users write them, and the requests that come of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from loadtest.body import PromptStyle
from loadtest.dataset import read_dataset
from loadtest.errors import LineError, LoadtestError
from loadtest.order import Order, plan_workload
from loadtest.words import COMMON_WORDS, words_of


def test_the_same_seed_plans_the_same_bytes() -> None:
    order = Order(rate="20", duration="10s", input_tokens="10-50", turns=2, think="1s", seed=4)
    assert plan_workload(order) == plan_workload(order)
    assert plan_workload(order) != plan_workload(Order(rate="20", duration="10s", seed=5))


def test_requests_are_numbered_without_gaps() -> None:
    workload = plan_workload(Order(rate="5", duration="10s", turns=3))
    numbers = [
        conversation.first_index + turn
        for conversation in workload.conversations
        for turn in range(len(conversation.turns))
    ]
    assert numbers == list(range(workload.num_requests))


def test_a_group_shares_its_prefix_and_nothing_else() -> None:
    order = Order(
        rate="50", duration="4s", input_tokens="100", prefix_tokens=64, prefix_groups=3, seed=1
    )
    firsts, owns = set(), []
    for conversation in plan_workload(order).conversations:
        prefix, own = conversation.turns[0].segments
        assert (prefix.num_tokens, own.num_tokens) == (64, 36)
        firsts.add(prefix.block_id)
        owns.append(own.block_id)
    assert len(firsts) == 3
    assert len(set(owns)) == len(owns)


def test_a_prefix_leaves_each_prompt_a_token_of_its_own() -> None:
    order = Order(rate="5", duration="2s", input_tokens="10", prefix_tokens=64)
    segments = plan_workload(order).conversations[0].turns[0].segments
    assert [segment.num_tokens for segment in segments] == [9, 1]


def test_a_count_of_requests_ends_the_arrivals() -> None:
    workload = plan_workload(Order(rate="10", requests=40, arrivals="constant"))
    assert workload.num_requests == 40
    assert workload.duration_s == pytest.approx(4.0)


def test_phases_change_the_kind_of_request() -> None:
    phases = ("10s rate=4 input=2000 output=20 name=long", "20s rate=1..9 output=300")
    order = Order(phases=phases, arrivals="constant", input_tokens="50")
    workload = plan_workload(order)
    assert workload.duration_s == 30.0
    by_class: dict[str, list[tuple[int, int]]] = {}
    for conversation in workload.conversations:
        (turn,) = conversation.turns
        by_class.setdefault(conversation.class_name, []).append((turn.num_input, turn.num_output))
        is_first = conversation.at_s <= 10.0
        assert conversation.class_name == ("long" if is_first else "phase 2")
    assert {name: set(kinds) for name, kinds in by_class.items()} == {
        "long": {(2000, 20)},
        "phase 2": {(50, 300)},
    }
    assert {name: len(kinds) for name, kinds in by_class.items()} == {"long": 40, "phase 2": 100}


def test_think_times_have_their_mean() -> None:
    workload = plan_workload(Order(rate="100", duration="20s", turns=4, think="2s"))
    thinks = [turn.think_s for c in workload.conversations for turn in c.turns[1:]]
    assert np.mean(thinks) == pytest.approx(2.0, rel=0.05)
    assert {c.turns[0].think_s for c in workload.conversations} == {0.0}


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (Order(arrivals="bursty"), "none of constant, poisson, gamma"),
        (Order(burstiness=0.0), "burstiness"),
        (Order(spike="9"), "not a spike"),
        (Order(phases=("10s speed=3",)), "KEY=VALUE"),
        (Order(phases=("rate=3",)), "not a duration"),
        (Order(phases=("10s turns=x",)), "not a whole number"),
        (Order(phases=("10s turns=0",)), "at least 1"),
        (Order(duration="0s"), "duration must be positive"),
        (Order(turns=0), "at least 1"),
        (Order(trace=Path("a"), dataset=Path("b")), "cannot be sent together"),
        (Order(rate="0.001", duration="1s", arrivals="constant"), "no request arrives"),
    ],
)
def test_a_wrong_order_is_refused_with_its_reason(order: Order, reason: str) -> None:
    with pytest.raises(LoadtestError, match=reason):
        plan_workload(order)


def test_conversations_go_to_the_chat_endpoint() -> None:
    assert Order().default_style() is PromptStyle.IDS
    assert Order(turns=2).default_style() is PromptStyle.CHAT
    assert Order(dataset=Path("x")).default_style() is PromptStyle.CHAT


CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "2"},
]


def dataset(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_row_is_one_request_up_to_its_last_question(tmp_path: Path) -> None:
    path = dataset(tmp_path / "d.jsonl", {"messages": CHAT, "class": "qa", "output_tokens": 7})
    workload = plan_workload(Order(dataset=path, rate="5", duration="2s", arrivals="constant"))
    assert len(workload.conversations) == 10
    (turn,) = workload.conversations[3].turns
    assert [message.content for message in turn.messages] == ["be brief", "one?", "1", "two?"]
    assert (turn.num_output, workload.conversations[3].class_name) == (7, "qa")
    assert workload.duration_s == 2.0


def test_a_row_can_be_played_turn_by_turn(tmp_path: Path) -> None:
    path = dataset(tmp_path / "d.jsonl", {"messages": CHAT})
    order = Order(dataset=path, rate="5", duration="1s", multi_turn=True, think="1s")
    turns = plan_workload(order).conversations[0].turns
    assert [[m.content for m in turn.messages] for turn in turns] == [
        ["be brief", "one?"],
        ["two?"],
    ]
    assert turns[0].think_s == 0.0 < turns[1].think_s


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "truncated"),
        ({"messages": []}, "no message of role user"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": CHAT, "output_tokens": -1}, "output_tokens is -1"),
        ({"prompt": "x"}, "messages"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: object, reason: str) -> None:
    path = dataset(tmp_path / "d.jsonl", {"messages": CHAT}, row)
    with pytest.raises(LineError, match=reason) as caught:
        read_dataset(path)
    assert caught.value.line == 2


def test_an_absent_or_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match="cannot read the dataset"):
        read_dataset(tmp_path / "none")
    with pytest.raises(LoadtestError, match="has no lines"):
        read_dataset(dataset(tmp_path / "empty"))


def test_words_of_a_tokenizer_are_one_token_each(tmp_path: Path) -> None:
    """Single letters are tokens of the alphabet; behind a space they are two."""
    words = {"Ġred": 0, "Ġblue": 1, "a": 2, "Ġ": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = words_of(tmp_path)
    assert {"red", "blue"} <= set(found)
    text = "".join(f" {word}" for word in found)
    assert len(tokenizer.encode(text).ids) == len(found)


def test_without_a_tokenizer_the_words_are_common_ones() -> None:
    assert words_of(None) == COMMON_WORDS
    assert len(set(COMMON_WORDS)) == len(COMMON_WORDS) > 250


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match="does not exist"):
        words_of(tmp_path)
