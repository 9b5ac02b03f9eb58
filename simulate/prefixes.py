"""The router's prefix map over units that are larger than the 16 tokens of a real block."""

from collections.abc import Iterable, Sequence

from loadtest.plan import Segment
from router.prefix_map import PrefixMap, PrefixMatch

_POSITIVE = (1 << 62) - 1


class UnitPrefixMap(PrefixMap):
    """Counts a matched unit as the blocks that it stands for; all else is the router's own."""

    def __init__(self, max_blocks_per_worker: int, unit_blocks: int) -> None:
        super().__init__(max(1, max_blocks_per_worker // unit_blocks))
        self._unit_blocks = unit_blocks

    def match(self, hashes: Sequence[int]) -> PrefixMatch:
        units = super().match(hashes)
        factor = self._unit_blocks
        return PrefixMatch(
            {worker_id: count * factor for worker_id, count in units.held.items()},
            {worker_id: count * factor for worker_id, count in units.confirmed.items()},
            {worker_id: count * factor for worker_id, count in units.host.items()},
        )


def unit_keys(segments: Iterable[Segment], unit_tokens: int) -> tuple[int, ...]:
    """A chained key for each whole unit of a prompt: equal keys, equal tokens up to its end.

    Numbers hash alike in every process, so the keys do not depend on PYTHONHASHSEED.
    """
    keys: list[int] = []
    parent, room = 0, unit_tokens
    pieces: list[tuple[int, int, int]] = []
    for block_id, num_tokens in segments:
        start = 0
        while start < num_tokens:
            end = min(num_tokens, start + room)
            pieces.append((block_id, start, end))
            room -= end - start
            start = end
            if room == 0:
                parent = hash((parent, *pieces)) & _POSITIVE
                keys.append(parent)
                pieces, room = [], unit_tokens
    return tuple(keys)
