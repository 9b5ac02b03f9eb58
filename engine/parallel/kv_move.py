"""What rank 0 tells the others to copy between their memory and the worker's pool.

5 x int64: -1 (which no step begins with), 1 to save or 0 to load, first and last layer, blocks |
the blocks' ids
"""

from dataclasses import dataclass

import numpy as np

_MARK = -1
_HEAD = 5
_WORD = np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class KVMove:
    """Layers first_layer .. last_layer of some blocks: to the pool, or from it."""

    is_save: bool
    block_ids: tuple[int, ...]
    first_layer: int
    last_layer: int

    def pack(self) -> bytes:
        head = (_MARK, int(self.is_save), self.first_layer, self.last_layer, len(self.block_ids))
        return np.array((*head, *self.block_ids), _WORD).tobytes()

    @classmethod
    def unpack(cls, message: bytes) -> "KVMove | None":
        """None for a message of another kind. Raises ValueError for a length that is not said."""
        words = np.frombuffer(message, _WORD).tolist() if len(message) % _WORD.itemsize == 0 else []
        if not words or words[0] != _MARK:
            return None
        if len(words) < _HEAD or len(words) != _HEAD + words[4]:
            raise ValueError(f"a move of {len(message)} bytes says another number of blocks")
        return cls(bool(words[1]), tuple(words[_HEAD:]), words[2], words[3])
