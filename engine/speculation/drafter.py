"""Who guesses the tokens that a sequence may go on with."""

from collections.abc import Sequence as Row
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine.block_tables import BlockTables
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Wish:
    """A running sequence and how many tokens are wanted of it; its blocks hold that many more."""

    seq: Sequence
    count: int


class Drafter(Protocol):
    """Guesses tokens. A guess may be wrong: it costs time and never changes an answer."""

    def propose(self, wishes: Row[Wish], tables: BlockTables) -> list[tuple[int, ...]]:
        """For each wish at most `count` tokens that may follow its sequence's known ones."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """A sequence's tokens from position `start` on that a step computed. They end where the
    sequence's computed tokens do, since behind these are refused guesses; the first one is the
    step's row `first_row`."""

    seq: Sequence
    start: int
    first_row: int

    @property
    def end(self) -> int:
        return self.seq.num_computed


@runtime_checkable
class Watcher(Protocol):
    """A drafter that learns from what the model computes."""

    def watch(self, spans: Row[Span], tables: BlockTables) -> None:
        """Called behind each step, which has chosen its tokens."""
        ...
