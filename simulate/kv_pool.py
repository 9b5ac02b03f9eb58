"""A modelled worker's KV memory: counts of blocks, and which prefixes are cached in them."""

from collections import OrderedDict
from collections.abc import Sequence

from wire.messages import BlockEvent, BlockSnapshot


class KvPool:
    """Counts blocks of 16 tokens; a cached prefix is kept in units of `unit_blocks` of them.

        free --take--> private (counted by its leg) --store--> cached, referenced
        cached, referenced --release--> idle --evicted by take, oldest first--> free

    The same rules as the engine's block pool: referenced, idle in the order of last use, or free.
    What a leg leaves behind outside whole units stays as one idle entry without a name.
    """

    def __init__(self, num_blocks: int, unit_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.unit_blocks = unit_blocks
        self._num_free = num_blocks
        self._num_idle = 0
        self._references: dict[int, int] = {}
        self._idle: OrderedDict[int, int] = OrderedDict()  # key -> blocks
        self._last_nameless = 0
        self._sequence_number = 0
        self._stored: dict[int, None] = {}
        self._removed: dict[int, None] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody references: free or evictable."""
        return self._num_free + self._num_idle

    def match(self, keys: Sequence[int]) -> int:
        """How many leading units are cached."""
        for depth, key in enumerate(keys):
            if key not in self._references:
                return depth
        return len(keys)

    def can_claim(self, prefix: Sequence[int], num_new: int) -> bool:
        """Whether so many blocks are free beside these cached units."""
        num_idle = sum(self._references[key] == 0 for key in prefix) * self.unit_blocks
        return self.num_free - num_idle >= num_new

    def claim(self, prefix: Sequence[int], num_new: int) -> None:
        """References cached units and takes new blocks; they have to fit."""
        for key in prefix:
            self._reference(key)
        self.take(num_new)

    def take(self, num_new: int) -> None:
        """Takes blocks, evicting what was used longest ago; there have to be so many."""
        while self._num_free < num_new:
            self._evict(next(iter(self._idle)))
        self._num_free -= num_new

    def store(self, key: int, parent: int | None, held: list[int]) -> int:
        """Names blocks of a leg, and references them; gives how many are not private any more.

        parent: the key before it in the prompt. held: what the leg references. Of what another leg
        stored before, the leg keeps its own blocks.
        """
        if key in self._references:
            return 0
        self._references[key] = 1
        if key in self._removed:
            del self._removed[key]
        else:
            self._stored[key] = None
        held.append(key)
        return self.unit_blocks

    def release(self, held: Sequence[int], num_private: int, num_content: int) -> None:
        """Drops a leg's units and private blocks; the last unit is evicted first. num_content: of
        the private blocks, that hold something worth keeping."""
        if num_content:
            self._last_nameless -= 1
            self._idle[self._last_nameless] = num_content
            self._num_idle += num_content
        self._num_free += num_private - num_content
        for key in reversed(held):
            self._references[key] -= 1
            if not self._references[key]:
                self._idle[key] = self.unit_blocks
                self._num_idle += self.unit_blocks

    def take_event(self) -> BlockEvent | None:
        """What entered and left the cache since the last call."""
        if not self._stored and not self._removed:
            return None
        self._sequence_number += 1
        event = BlockEvent(self._sequence_number, tuple(self._stored), tuple(self._removed))
        self._stored, self._removed = {}, {}
        return event

    def snapshot(self) -> BlockSnapshot:
        """All units as of the last event that was taken; what changed since comes in the next."""
        stored = set(self._references).difference(self._stored).union(self._removed)
        return BlockSnapshot(self._sequence_number, tuple(sorted(stored)))

    def check_integrity(self, num_private: int) -> None:
        """The counts add up to the pool. num_private: of all legs. Raises AssertionError."""
        idle = sum(self._idle.values())
        assert idle == self._num_idle, f"{self._num_idle} idle blocks, the entries have {idle}"
        used = sum(count > 0 for count in self._references.values()) * self.unit_blocks
        total = self._num_free + idle + used + num_private
        assert self._num_free >= 0 and total == self.num_blocks, (
            f"{self._num_free} free, {idle} idle, {used} referenced, {num_private} private blocks "
            f"are not {self.num_blocks}"
        )
        named = {key for key in self._idle if key >= 0}
        assert named == {key for key, count in self._references.items() if not count}

    def _reference(self, key: int) -> None:
        if not self._references[key]:
            self._num_idle -= self._idle.pop(key)
        self._references[key] += 1

    def _evict(self, key: int) -> None:
        """Takes what nobody references out of the cache."""
        self._drop_idle(key)
        if key >= 0:
            del self._references[key]
            self._log_removal(key)

    def _drop_idle(self, key: int) -> None:
        size = self._idle.pop(key)
        self._num_idle -= size
        self._num_free += size

    def _log_removal(self, key: int) -> None:
        if key in self._stored:
            del self._stored[key]
        else:
            self._removed[key] = None
