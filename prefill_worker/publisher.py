"""Publishes the KV of prefill-only sequences while it is computed, and of cached prefixes whole.

first chunk scheduled      publish   -> a handle goes out with the step's events
a layer group finished     advance   -> readers may pull it
first token sampled        complete  -> readers get the token and finish
reader done, lease over    released  -> the engine frees the blocks
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.batch import ScheduledChunk
from engine.kv_path import KVPath
from kv_transfer.exporter import Exporter
from wire.block_hash import BLOCK_SIZE
from wire.kv import KVHandle


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A published sequence's share of the running step."""

    seq_id: int
    end: int
    block_ids: tuple[int, ...]  # that the chunk writes


class Publisher:
    """The prefill phase's side of the fabric; called from the engine's thread only.

    The blocks of a published sequence stay the engine's: it holds them until the exporter says,
    through its own callback, that they were released. With a path, blocks become readable when
    it says so.
    """

    def __init__(
        self,
        exporter: Exporter,
        num_layers: int,
        num_groups: int,
        path: KVPath | None = None,
        block_size: int = BLOCK_SIZE,
    ) -> None:
        """block_size: of this worker's blocks, in tokens."""
        self._exporter = exporter
        self._num_layers = num_layers
        self._group = -(-num_layers // num_groups)
        self._path = path
        self._block_size = block_size
        self._blocks: dict[int, tuple[int, ...]] = {}  # by published sequence
        self._current: tuple[_Chunk, ...] = ()

    @property
    def num_active(self) -> int:
        return self._exporter.num_active

    def begin_step(
        self, chunks: Sequence[ScheduledChunk], num_tokens: Mapping[int, int]
    ) -> list[tuple[int, KVHandle]]:
        """Publishes what is scheduled for the first time: (seq_id, handle) of each.

        num_tokens: of the sequences to publish, the tokens whose KV they will hold.
        """
        handles = [
            (chunk.seq_id, self._publish(chunk, num_tokens[chunk.seq_id]))
            for chunk in chunks
            if chunk.is_first and chunk.seq_id in num_tokens
        ]
        self._current = tuple(
            _Chunk(chunk.seq_id, chunk.end, self._written(chunk))
            for chunk in chunks
            if chunk.seq_id in self._blocks
        )
        return handles

    def share(self, seq_id: int, block_ids: tuple[int, ...], num_tokens: int) -> KVHandle:
        """Publishes full blocks that are computed already; no token comes with them."""
        self._blocks[seq_id] = block_ids
        num_ready = num_tokens if self._path is None else 0
        handle = self._exporter.publish(seq_id, block_ids, num_tokens, num_ready)
        if self._path is not None:
            self._save(seq_id, num_tokens, block_ids, 0, self._num_layers)
        self.complete(seq_id, ())
        return handle

    def on_layers(self, num_layers: int) -> None:
        """`num_layers` of the running step are in the cache; readers learn it by layer groups."""
        if not self._current or (num_layers % self._group and num_layers != self._num_layers):
            return
        first_layer = (num_layers - 1) // self._group * self._group
        for chunk in self._current:
            if self._path is None:
                self._exporter.advance(chunk.seq_id, chunk.end, num_layers)
            else:
                self._save(chunk.seq_id, chunk.end, chunk.block_ids, first_layer, num_layers)

    def complete(self, seq_id: int, output_tokens: tuple[int, ...]) -> None:
        """All KV of the sequence is there, and its first token is known."""
        if self._path is None:
            self._exporter.complete(seq_id, output_tokens)
        else:
            self._path.after_saves(lambda: self._exporter.complete(seq_id, output_tokens))

    def abort(self, seq_id: int, reason: str) -> None:
        """Readers of this sequence get an error; nothing happens when it was never published."""
        if seq_id in self._blocks:
            self._exporter.abort(seq_id, reason)

    def forget(self, seq_id: int) -> None:
        """The exporter has released the sequence's blocks."""
        self._blocks.pop(seq_id, None)

    def is_published(self, seq_id: int) -> bool:
        return seq_id in self._blocks

    def check_integrity(self) -> None:
        """Raises AssertionError when the exporter's books do not agree."""
        self._exporter.check_integrity()

    def _publish(self, chunk: ScheduledChunk, num_tokens: int) -> KVHandle:
        """The prefix that came from the cache is readable at once, or when the path has it."""
        self._blocks[chunk.seq_id] = chunk.block_ids
        num_ready = chunk.start if self._path is None else 0
        handle = self._exporter.publish(chunk.seq_id, chunk.block_ids, num_tokens, num_ready)
        if self._path is not None and chunk.start:
            cached = chunk.block_ids[: -(-chunk.start // self._block_size)]
            self._save(chunk.seq_id, chunk.start, cached, 0, self._num_layers)
        return handle

    def _save(
        self, seq_id: int, end: int, block_ids: Sequence[int], first_layer: int, last_layer: int
    ) -> None:
        assert self._path is not None
        advance = self._exporter.advance
        self._path.save(
            block_ids, first_layer, last_layer, lambda: advance(seq_id, end, last_layer)
        )

    def _written(self, chunk: ScheduledChunk) -> tuple[int, ...]:
        size, block_ids = self._block_size, self._blocks[chunk.seq_id]
        return block_ids[chunk.start // size : -(-chunk.end // size)]
