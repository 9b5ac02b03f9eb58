"""KV blocks that the fabric reads from the engine's pool, and writes into it: nothing is copied.

compute stream   | layer 0..3 | layer 4..7 | ...
                             \\-> event: `then` on the path's thread, which moves the watermark
"""

from collections.abc import Callable, Sequence

import torch

from engine.event_thread import EventThread


class DirectPath:
    """An engine.kv_path.KVPath of a pool that other workers read where it lies."""

    def __init__(self, device: torch.device, fence: Callable[[int], None]) -> None:
        """fence: given a stream, has the fabric's writes that begin later come behind what the
        stream was given so far; called on CUDA alone, where a host does not compute as it goes."""
        self._device = device
        self._fence = fence
        self._thread = EventThread("direct-path")

    def save(
        self,
        block_ids: Sequence[int],
        first_layer: int,
        last_layer: int,
        then: Callable[[], None],
    ) -> None:
        self._thread.call(self._computed(), then)

    def after_saves(self, then: Callable[[], None]) -> None:
        self._thread.call(None, then)

    def before_pull(self) -> None:
        if self._device.type == "cuda":
            self._fence(torch.cuda.current_stream(self._device).cuda_stream)

    def load(self, block_ids: Sequence[int]) -> None:
        """They are there already: the fabric tells of a pull when its last copy has ended."""

    def close(self) -> None:
        self._thread.close()

    def _computed(self) -> torch.cuda.Event | None:
        """Passed when what is queued has been computed; its wait does not spin."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
