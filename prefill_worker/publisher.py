"""Publishes the KV of prefill-only sequences while it is computed.

first chunk scheduled      publish   -> a handle goes out with the step's events
a layer group finished     advance   -> readers may pull it
first token sampled        complete  -> readers get the token and finish
reader done, lease over    released  -> the engine frees the blocks
"""

from collections.abc import Mapping, Sequence

from engine.batch import ScheduledChunk
from kv_transfer.exporter import Exporter
from wire.kv import KVHandle


class Publisher:
    """The prefill phase's side of the fabric; called from the engine's thread only.

    The blocks of a published sequence stay the engine's: it holds them until the exporter says,
    through its own callback, that they were released.
    """

    def __init__(self, exporter: Exporter, num_layers: int, num_groups: int) -> None:
        self._exporter = exporter
        self._num_layers = num_layers
        self._group = -(-num_layers // num_groups)
        self._published: set[int] = set()
        self._current: tuple[tuple[int, int], ...] = ()  # (seq_id, end) of this step's chunks

    @property
    def num_active(self) -> int:
        return self._exporter.num_active

    def begin_step(
        self, chunks: Sequence[ScheduledChunk], num_tokens: Mapping[int, int]
    ) -> list[tuple[int, KVHandle]]:
        """Publishes what is scheduled for the first time: (seq_id, handle) of each.

        num_tokens: of the sequences to publish, the tokens whose KV they will hold.
        """
        handles = []
        for chunk in chunks:
            if chunk.is_first and chunk.seq_id in num_tokens:
                handle = self._exporter.publish(
                    chunk.seq_id, chunk.block_ids, num_tokens[chunk.seq_id], chunk.start
                )
                self._published.add(chunk.seq_id)
                handles.append((chunk.seq_id, handle))
        self._current = tuple(
            (chunk.seq_id, chunk.end) for chunk in chunks if chunk.seq_id in self._published
        )
        return handles

    def on_layers(self, num_layers: int) -> None:
        """`num_layers` of the running step are in the cache; readers learn it by layer groups."""
        if self._current and (num_layers % self._group == 0 or num_layers == self._num_layers):
            for seq_id, end in self._current:
                self._exporter.advance(seq_id, end, num_layers)

    def complete(self, seq_id: int, output_tokens: tuple[int, ...]) -> None:
        """All KV of the sequence is there, and its first token is known."""
        self._exporter.complete(seq_id, output_tokens)

    def abort(self, seq_id: int, reason: str) -> None:
        """Readers of this sequence get an error; nothing happens when it was never published."""
        if seq_id in self._published:
            self._exporter.abort(seq_id, reason)

    def forget(self, seq_id: int) -> None:
        """The exporter has released the sequence's blocks."""
        self._published.discard(seq_id)

    def is_published(self, seq_id: int) -> bool:
        return seq_id in self._published

    def check_integrity(self) -> None:
        """Raises AssertionError when the exporter's books do not agree."""
        self._exporter.check_integrity()
