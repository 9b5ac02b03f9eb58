"""Dialogues of the corpus and their text in the model's chat format."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START, END)

TOOLS_PREAMBLE = (
    "# Tools\n\n"
    "You can call the functions below. Each line describes one function as JSON:\n"
    "<tools>\n{tools}\n</tools>\n\n"
    "To call a function, answer with its name and its arguments as JSON between tags:\n"
    '<tool_call>\n{{"name": "FUNCTION", "arguments": {{...}}}}\n</tool_call>'
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; role is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text; only learned text counts fully in the training loss."""

    text: str
    learned: bool


def tool_call(name: str, arguments: dict[str, object]) -> str:
    """An assistant message that calls one function."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def tools_system(system: str | None, tools: Sequence[dict[str, object]]) -> str:
    """The system message that offers tools, as the chat template writes it."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    preamble = TOOLS_PREAMBLE.format(tools=lines)
    return f"{system}\n\n{preamble}" if system else preamble


def render(turns: Sequence[Turn]) -> list[Segment]:
    """The dialogue as segments, equal to the chat template's text plus an end-of-text token."""
    segments = []
    for turn in turns:
        if turn.role == "tool":
            body = f"<tool_response>\n{turn.content}\n</tool_response>"
            segments.append(Segment(f"{START}user\n{body}{END}\n", False))
        elif turn.role == "assistant":
            segments.append(Segment(f"{START}assistant\n", False))
            segments.append(Segment(f"{turn.content}{END}", True))
            segments.append(Segment("\n", False))
        else:
            segments.append(Segment(f"{START}{turn.role}\n{turn.content}{END}\n", False))
    segments.append(Segment(END_OF_TEXT, False))
    return segments
