"""How KV blocks leave a device's pool for the fabric, and come in."""

from collections.abc import Callable, Sequence
from typing import Protocol


class KVPath(Protocol):
    """Between the engine's pool and the pool that the fabric reads and writes.

    Called on the engine's thread. engine.host_mirror copies between two pools; with
    engine.direct_path both are the same one. A pool in host memory needs neither.
    """

    def save(
        self,
        block_ids: Sequence[int],
        first_layer: int,
        last_layer: int,
        then: Callable[[], None],
    ) -> None:
        """Has layers first_layer .. last_layer of the blocks, as computed by what is queued, read
        by the fabric; `then` is called on a thread of the path's when they may be."""

    def after_saves(self, then: Callable[[], None]) -> None:
        """Calls `then` on that thread behind every save so far."""

    def before_pull(self) -> None:
        """Blocks that are free for a pull may still be in use by what is queued: whatever the
        fabric writes from here on comes behind it."""

    def load(self, block_ids: Sequence[int]) -> None:
        """The fabric has written these blocks: they are there for whatever is computed next."""

    def close(self) -> None:
        """Ends the thread behind its last call; safe to call twice."""
