"""What one worker will soon hold: prompts that were just routed there, until they end."""

import math
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass, field

_MAX_COMPARED = 4  # prompts with one first block: more of them are found by their blocks

_Guess = tuple[float, Sequence[int]]  # when it ends, and the prompt's chained hashes
_NONE: Mapping[int, _Guess] = {}


@dataclass(slots=True)
class _Generation:
    """Guesses that are let go together, when the last of them has ended.

    few: prompts by first hash and last hash; a few begin alike and are compared one by one. many:
    the first hashes of those that are found in blocks, by every hash. These alone can have holes.
    """

    few: dict[int, dict[int, _Guess]] = field(default_factory=dict)
    many: set[int] = field(default_factory=set)
    blocks: dict[int, _Guess] = field(default_factory=dict)
    num_few_blocks: int = 0
    ends_s: float = -math.inf

    @property
    def num_blocks(self) -> int:
        return len(self.blocks) + self.num_few_blocks

    @property
    def roots(self) -> Set[int]:
        return self.few.keys() | self.many

    def add(self, hashes: Sequence[int], ends_s: float) -> None:
        root, last, guess = hashes[0], hashes[-1], (ends_s, hashes)
        if ends_s > self.ends_s:
            self.ends_s = ends_s
        if root in self.many:
            self.blocks.update(dict.fromkeys(hashes, guess))
            return
        alike = self.few.setdefault(root, {})
        if alike.pop(last, None) is None:
            self.num_few_blocks += len(hashes)
        alike[last] = guess
        if len(alike) > _MAX_COMPARED:
            self._spread(root)

    def spread(self) -> None:
        """Notes every prompt by its blocks."""
        for root in list(self.few):
            self._spread(root)

    def _spread(self, root: int) -> None:
        for guess in self.few.pop(root).values():  # the later one counts where two have a block
            self.blocks.update(dict.fromkeys(guess[1], guess))
            self.num_few_blocks -= len(guess[1])
        self.many.add(root)

    def end(self, hashes: Sequence[int], depth: int, now_s: float, has_holes: bool) -> int:
        """How far a guess reaches that has the prompt's block at `depth`; depth without one."""
        if hashes[0] in self.many:
            found = self.blocks.get(hashes[depth])
            if found is None or found[0] <= now_s:
                return depth
            return depth + 1 if has_holes else _common_end(hashes, found[1], depth)
        end, num_blocks = depth, len(hashes)
        for ends_s, guessed in self.few.get(hashes[0], _NONE).values():
            if ends_s > now_s and end < len(guessed) and guessed[end] == hashes[end]:
                end = _common_end(hashes, guessed, end)
                if end == num_blocks:
                    break
        return end


class Guesses:
    """In two generations; the elder one is let go as a whole when its last guess has ended."""

    def __init__(self) -> None:
        self._young, self._old = _Generation(), _Generation()
        self._holes_end_s = -math.inf  # until then some guess may have lost a block in its middle

    def add(self, hashes: Sequence[int], ends_s: float, now_s: float, limit: int) -> Set[int]:
        """Adds a prompt; gives the first hashes of prompts that it lets go."""
        gone: Set[int] = frozenset()
        if self._old.ends_s <= now_s or self._young.num_blocks > limit:
            gone = self._old.roots - self._young.roots - {hashes[0]}
            self._old, self._young = self._young, _Generation()
        self._young.add(hashes, ends_s)
        return gone

    def remove(self, block: int) -> None:
        """The worker has let this block go."""
        self._young.spread()
        self._old.spread()
        in_either = self._young.blocks.pop(block, None), self._old.blocks.pop(block, None)
        if in_either != (None, None):
            self._holes_end_s = max(self._young.ends_s, self._old.ends_s)

    def reach(
        self, hashes: Sequence[int], depth: int, now_s: float, confirmed: Container[int]
    ) -> int:
        """How far the prompt is held from `depth` on, where it is not confirmed."""
        young, old = self._young, self._old
        if young.ends_s <= now_s and old.ends_s <= now_s:
            return depth
        start, num_blocks, has_holes = depth, len(hashes), now_s < self._holes_end_s
        while depth < num_blocks:
            end = young.end(hashes, depth, now_s, has_holes)
            if end == depth:
                end = old.end(hashes, depth, now_s, has_holes)
            if end > depth:
                depth = end
            elif depth > start and hashes[depth] in confirmed:
                depth += 1
            else:
                break
        return depth

    def roots(self) -> Set[int]:
        """The first hashes of all prompts."""
        return self._young.roots | self._old.roots


def _common_end(one: Sequence[int], other: Sequence[int], depth: int) -> int:
    """Where two prompts part that are equal at `depth`: a chained hash stands for all before it."""
    end = min(len(one), len(other))
    if one[end - 1] == other[end - 1]:
        return max(end, depth + 1)
    while end - depth > 1:
        middle = (depth + end) // 2
        if one[middle] == other[middle]:
            depth = middle
        else:
            end = middle
    return end
