"""Prompt content from block ids: token ids, or words where a server takes only text."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loadtest.plan import Segment

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_POSITION_BITS = np.uint64(32)


class TokenBlocks:
    """Token ids in [low, high) that depend on (seed, block id, position in the block) alone.

    So equal ids give equal tokens in every process without a table, and a prefix of a block is
    the block's prefix. The generator is splitmix64 (Steele et al., OOPSLA 2014), counter-based.
    """

    def __init__(self, low: int, high: int, seed: int) -> None:
        assert 0 <= low < high
        self._low = low
        self._size = np.uint64(high - low)
        self._seed = _mix(np.array([seed], dtype=np.uint64))[0]

    def tokens(self, segments: Sequence[Segment]) -> npt.NDArray[np.int64]:
        """[num_tokens]"""
        if not segments:
            return np.empty(0, dtype=np.int64)
        lengths = np.array([segment.num_tokens for segment in segments])
        ids = np.array([segment.block_id for segment in segments], dtype=np.uint64)
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        streams = np.repeat(_mix(ids ^ self._seed), lengths)
        mixed = _mix(streams + positions.astype(np.uint64) * _GOLDEN)
        return ((mixed >> _POSITION_BITS) % self._size).astype(np.int64) + self._low


class WordBlocks:
    """The same as text: token k of TokenBlocks is word k, with a space before each."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        self._words = tuple(words)
        self._blocks = TokenBlocks(0, len(self._words), seed)

    def text(self, segments: Sequence[Segment]) -> str:
        words = self._words
        return "".join(f" {words[token]}" for token in self._blocks.tokens(segments).tolist())


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64; arithmetic wraps at 64 bits."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
