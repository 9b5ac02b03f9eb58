"""What will be sent: conversations of turns, each with its start. It goes to the generators."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec


class Segment(NamedTuple):
    """The first num_tokens tokens of the content that block_id names: equal ids, equal tokens."""

    block_id: int
    num_tokens: int


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a dataset, as it goes into the request's body."""

    role: str
    content: str


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """One request. Its prompt is all that went before in the conversation, and then this.

    segments or messages: the turn's own part. think_s: pause after the previous turn's answer.
    """

    num_output: int
    segments: tuple[Segment, ...] = ()
    messages: tuple[ChatMessage, ...] = ()
    think_s: float = 0.0

    @property
    def num_input(self) -> int:
        """Tokens of the turn's own synthetic part; 0 for a dataset's messages."""
        return sum(segment.num_tokens for segment in self.segments)


class Conversation(msgspec.Struct, frozen=True, array_like=True):
    """Turns that follow one another; the first is sent at at_s seconds from the start.

    first_index: the request number of the first turn; the others follow it.
    """

    first_index: int
    at_s: float
    turns: tuple[Turn, ...]
    class_name: str = ""


class Workload(msgspec.Struct, frozen=True):
    """A whole run, sorted by start. duration_s: how long arrivals go on; notes: for the report."""

    conversations: tuple[Conversation, ...]
    duration_s: float
    description: str
    notes: tuple[str, ...] = ()

    @property
    def num_requests(self) -> int:
        return sum(len(conversation.turns) for conversation in self.conversations)


def number(
    starts: Iterable[tuple[float, Sequence[Turn], str]],
) -> tuple[Conversation, ...]:
    """Conversations of (start, turns, class), numbered in the order given."""
    numbered: list[Conversation] = []
    index = 0
    for at_s, turns, class_name in starts:
        numbered.append(Conversation(index, float(at_s), tuple(turns), class_name))
        index += len(turns)
    return tuple(numbered)
