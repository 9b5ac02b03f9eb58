"""Messages split into content, reasoning and calls, the same however the text arrives."""

import json
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.message_parser import MessageParser, MessageStyle, ToolStyle

HERMES = MessageStyle(tools=ToolStyle.HERMES)
LLAMA3 = MessageStyle(tools=ToolStyle.LLAMA3, tool_names=frozenset({"add", "say"}))
THINKING = MessageStyle(thinks=True)


@dataclass
class Message:
    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)  # id, name, arguments


def parse(style: MessageStyle, text: str, cuts: list[int] | None = None) -> Message:
    numbers = count()
    parser = MessageParser(style, lambda: f"id{next(numbers)}")
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts or ())})
    message = Message()
    deltas = [
        delta
        for start, end in zip(places, places[1:], strict=False)
        for delta in parser.push(text[start:end])
    ]
    for delta in [*deltas, *parser.finish()]:
        message.content += delta.content or ""
        message.reasoning += delta.reasoning_content or ""
        for call in delta.tool_calls or ():
            if call.id is not None:
                assert call.index == len(message.calls) and call.type == "function"
                message.calls.append([call.id, call.function.name, ""])
            message.calls[call.index][2] += call.function.arguments or ""
    assert parser.num_calls >= len(message.calls)
    return message


def hermes(name: str, arguments: object) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


ADD = hermes("add", {"a": 1, "b": [2, {"c": '}"</tool_call>'}]})
ADD_ARGUMENTS = '{"a": 1, "b": [2, {"c": "}\\"</tool_call>"}]}'

# style, text, content, reasoning, (name, arguments) of each call
ROWS: list[tuple[MessageStyle, str, str, str, list[tuple[str, str]]]] = [
    (HERMES, "Hello there. ", "Hello there. ", "", []),
    (HERMES, ADD, "", "", [("add", ADD_ARGUMENTS)]),
    (HERMES, f"Let me see.\n{ADD}\n", "Let me see.", "", [("add", ADD_ARGUMENTS)]),
    (
        HERMES,
        f"{ADD}\n{hermes('say', {})}",
        "",
        "",
        [("add", ADD_ARGUMENTS), ("say", "{}")],
    ),
    (HERMES, f"{ADD} and more", " and more", "", [("add", ADD_ARGUMENTS)]),
    (
        HERMES,
        '<tool_call>{"arguments": {"x": 1}, "name": "add"}</tool_call>',
        "",
        "",
        [("add", '{"x": 1}')],
    ),
    (
        HERMES,
        '<tool_call>{"name": "add", "arguments": "{\\"x\\": 1}"}</tool_call>',
        "",
        "",
        [("add", '{"x": 1}')],
    ),
    (HERMES, '<tool_call>{"name": "add"}</tool_call>', "", "", [("add", "{}")]),
    (
        HERMES,
        '<tool_call>{"name": "add", "arguments": {"x": "cut of',
        "",
        "",
        [("add", '{"x": "cut of')],
    ),
    (HERMES, "<tool_call>{not json}</tool_call>", "<tool_call>{not json}</tool_call>", "", []),
    (HERMES, "<tool_call>words</tool_call>", "<tool_call>words</tool_call>", "", []),
    (HERMES, "a < b and <tool", "a < b and <tool", "", []),
    (HERMES, "<tool_call>", "<tool_call>", "", []),
    (LLAMA3, "Plain words.", "Plain words.", "", []),
    (LLAMA3, '{"name": "add", "parameters": {"a": 1}}', "", "", [("add", '{"a": 1}')]),
    (
        LLAMA3,
        '<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": "{"}}',
        "",
        "",
        [("add", '{"a": "{"}')],
    ),
    (
        LLAMA3,
        '{"name": "add", "parameters": {}}; {"name": "say", "parameters": {"a": 2}}',
        "",
        "",
        [("add", "{}"), ("say", '{"a": 2}')],
    ),
    (
        LLAMA3,
        '{"name": "unknown", "parameters": {}}',
        '{"name": "unknown", "parameters": {}}',
        "",
        [],
    ),
    (LLAMA3, '{"answer": [1, 2]} indeed', '{"answer": [1, 2]} indeed', "", []),
    (LLAMA3, '{"answer": "cut', '{"answer": "cut', "", []),
    (THINKING, "<think>\nHm, <b>.\n</think>\n\nYes.", "Yes.", "\nHm, <b>.\n", []),
    (THINKING, "No thought.", "No thought.", "", []),
    (THINKING, "<think>cut of</thi", "", "cut of</thi", []),
    (THINKING, "<thi", "<thi", "", []),
    (
        MessageStyle(tools=ToolStyle.HERMES, thinks=True),
        f"<think>I call.</think>\n\n{ADD}",
        "",
        "I call.",
        [("add", ADD_ARGUMENTS)],
    ),
    (MessageStyle(thinks=True, is_thinking=True), "Hm.</think>Yes.", "Yes.", "Hm.", []),
    (
        MessageStyle(tools=ToolStyle.HERMES, num_calls=1),
        f"{ADD}\n{hermes('say', {})}",
        "",
        "",
        [("add", ADD_ARGUMENTS)],
    ),
]


@pytest.mark.parametrize(("style", "text", "content", "reasoning", "calls"), ROWS)
def test_an_answer_has_its_parts_whole_and_one_character_at_a_time(
    style: MessageStyle, text: str, content: str, reasoning: str, calls: list[tuple[str, str]]
) -> None:
    for cuts in ([], list(range(len(text)))):
        found = parse(style, text, cuts)
        assert found.content == content
        assert found.reasoning == reasoning
        assert [(name, arguments) for _, name, arguments in found.calls] == calls
        assert len({call_id for call_id, _, _ in found.calls}) == len(calls)


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_an_answer_cut_in_two_or_three_anywhere_has_the_same_parts(row: tuple[object, ...]) -> None:
    style, text = row[:2]
    assert isinstance(style, MessageStyle) and isinstance(text, str)
    whole = parse(style, text)
    for first in range(1, len(text)):
        assert parse(style, text, [first]) == whole, first
        for second in range(first + 1, len(text), max(1, len(text) // 12)):
            assert parse(style, text, [first, second]) == whole, (first, second)


PIECES = st.lists(
    st.sampled_from(
        [
            *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "{", "}"),
            *('"name": "add"', ", ", '"arguments": ', '"parameters": ', '{"a": "b\\""}', "\n"),
            *(" ", "word", ";", "<", "[", "]", '"', "\\", ADD, '{"name": "say", "parameters": {}}'),
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=400)
@given(
    text=PIECES,
    cuts=st.lists(st.integers(0, 500), max_size=8),
    tools=st.sampled_from([None, *ToolStyle]),
    thinks=st.booleans(),
    is_thinking=st.booleans(),
)
def test_where_the_text_is_cut_changes_nothing(
    text: str, cuts: list[int], tools: ToolStyle | None, thinks: bool, is_thinking: bool
) -> None:
    style = MessageStyle(tools, LLAMA3.tool_names, 0, thinks, is_thinking)
    assert parse(style, text, cuts) == parse(style, text)


@given(st.text(max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_text_without_marks_is_content_to_the_letter(text: str, cuts: list[int]) -> None:
    text = text.replace("<", "").replace("{", "")
    for style in (HERMES, LLAMA3, THINKING):
        assert parse(style, text, cuts) == Message(content=text)


def test_arguments_are_passed_on_before_the_call_ends() -> None:
    parser = MessageParser(HERMES, lambda: "id")
    [began] = parser.push('<tool_call>\n{"name": "add", "arguments": {')[:1]
    assert began.tool_calls[0].function.name == "add"
    [more] = parser.push('"city": "K')
    assert more.tool_calls[0].function.arguments == '"city": "K'
