"""Who guesses the tokens that a sequence may go on with."""

from collections.abc import Sequence as Row
from dataclasses import dataclass
from typing import Protocol

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
