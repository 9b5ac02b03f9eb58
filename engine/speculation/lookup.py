"""Drafts from the sequence itself: what followed when it last ended as it ends here."""

from array import array
from collections.abc import Sequence as Row

import numpy as np

from engine.block_tables import BlockTables
from engine.speculation.drafter import Wish

MIN_MATCH = 2  # tokens that must agree before a guess
_MAX_MATCH = 8  # more do not make a better one


class PromptLookup:
    """Prompt lookup decoding: no model and no state (Saxena: Prompt Lookup Decoding, 2023)."""

    def propose(self, wishes: Row[Wish], tables: BlockTables) -> list[tuple[int, ...]]:
        return [look_up(wish.seq.tokens, wish.count) for wish in wishes]


def look_up(tokens: "array[int]", count: int) -> tuple[int, ...]:
    """What followed the earlier place that agrees longest with the end; of several the last one.

    Where the end is less than `count` tokens behind that place, the text repeats itself, and so
    does the guess. Empty when fewer than MIN_MATCH tokens agree anywhere.
    """
    known = np.frombuffer(tokens, dtype=np.uint32)
    last = len(known) - 1
    ends = np.flatnonzero(known[:last] == known[last])
    length = 1
    while length < _MAX_MATCH and len(ends):
        longer = ends[ends >= length]
        longer = longer[known[longer - length] == known[last - length]]
        if not len(longer):
            break
        ends, length = longer, length + 1
    if not len(ends) or length < MIN_MATCH:
        return ()
    following = known[ends[-1] + 1 :]
    return tuple(np.resize(following, count).tolist())
