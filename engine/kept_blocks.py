"""Which idle blocks are wanted again before long, and until when."""

import math
from collections.abc import Iterable, Iterator, Sequence

_MAX_SHARE = 0.25  # of the pool


class KeptBlocks:
    """Blocks that are evicted after all others, each until its time; a share of the pool at most.

    A block's parent is kept at least as long as the block. Who comes when the share is used up
    keeps as much of its beginning as still fits.
    """

    def __init__(self, num_blocks: int) -> None:
        self.max_blocks = int(_MAX_SHARE * num_blocks)
        self._until_s: dict[int, float] = {}  # by block id, parents before their children
        self._next_end_s = math.inf

    def __len__(self) -> int:
        return len(self._until_s)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._until_s

    def __iter__(self) -> Iterator[int]:
        return iter(self._until_s)

    def keep(self, block_ids: Iterable[int], until_s: float) -> list[int]:
        """Of a chain from its root on; gives those that were not kept before."""
        added: list[int] = []
        for block_id in block_ids:
            known_s = self._until_s.get(block_id)
            if known_s is None:
                if len(self._until_s) >= self.max_blocks:
                    break
                added.append(block_id)
            if known_s is None or known_s < until_s:
                self._until_s[block_id] = until_s
        if added:
            self._next_end_s = min(self._next_end_s, until_s)
        return added

    def let_go(self, now_s: float) -> Sequence[int]:
        """Those whose time is over, parents before their children."""
        if now_s < self._next_end_s:
            return ()
        ended = [block_id for block_id, until_s in self._until_s.items() if until_s <= now_s]
        for block_id in ended:
            del self._until_s[block_id]
        self._next_end_s = min(self._until_s.values(), default=math.inf)
        return ended

    def drop(self, block_id: int) -> None:
        """The block has left the cache."""
        self._until_s.pop(block_id, None)

    def until_s(self, block_id: int) -> float:
        """-inf for a block that is not kept."""
        return self._until_s.get(block_id, -math.inf)
