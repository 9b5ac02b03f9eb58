"""KV blocks of a device, copied to and from a host pool of the same shape for the fabric.

    compute stream   | layer 0..3 | layer 4..7 | ...
    copy stream             \\-> blocks 0..3 -> host, then `then` on the mirror's thread

A CPU device needs no mirror: its pool is the host pool.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from engine.event_thread import EventThread
from engine.pinned import pin, unpin


class HostMirror:
    """An engine.kv_path.KVPath that copies between `device_kv` and `host_kv`, both [layers, blocks,
    2, kv_heads, 16, head_dim].

    `host_kv` may be some heads of a pool. Copies to the host run on a stream of their
    own and keep their order; the compute stream never waits for them. Host memory is pinned
    while the mirror lives.
    """

    def __init__(self, device_kv: Tensor, host_kv: Tensor) -> None:
        assert device_kv.shape == host_kv.shape and device_kv.dtype == host_kv.dtype
        self._device_kv = device_kv
        self._host_kv = host_kv
        self._is_cuda = device_kv.is_cuda
        self._stream = _stream(device_kv.device) if self._is_cuda else None
        if self._is_cuda:
            pin(host_kv)
        self._thread = EventThread("host-mirror")

    def save(
        self,
        block_ids: Sequence[int],
        first_layer: int,
        last_layer: int,
        then: Callable[[], None],
    ) -> None:
        """Copies layers first_layer .. last_layer of the blocks, as computed by what is queued.

        `then` is called on the mirror's thread when the bytes are in the host pool.
        """
        if self._stream is None:
            self._copy(self._host_kv, self._device_kv, block_ids, first_layer, last_layer)
            self._thread.call(None, then)
            return
        computed = torch.cuda.Event()  # type: ignore[no-untyped-call]
        computed.record()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(computed)
            self._copy(self._host_kv, self._device_kv, block_ids, first_layer, last_layer)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._thread.call(copied, then)

    def after_saves(self, then: Callable[[], None]) -> None:
        """Calls `then` on the mirror's thread behind every save so far."""
        self._thread.call(None, then)

    def before_pull(self) -> None:
        """The fabric writes into the host pool, which no computation uses."""

    def load(self, block_ids: Sequence[int]) -> None:
        """Copies all layers of the blocks to the device, before whatever is computed next."""
        num_layers = self._device_kv.shape[0]
        self._copy(self._device_kv, self._host_kv, block_ids, 0, num_layers)

    def close(self) -> None:
        """Ends the thread behind its last job, and unpins the host pool; safe to call twice."""
        if not self._thread.is_alive:
            return
        self._thread.close()
        if self._is_cuda:
            torch.cuda.synchronize(self._device_kv.device)
            unpin(self._host_kv)

    def _copy(
        self, target: Tensor, source: Tensor, block_ids: Sequence[int], first: int, last: int
    ) -> None:
        for start, end in _runs(block_ids):
            for layer in range(first, last):
                pieces = zip(
                    self._pieces(target[layer, start:end]),
                    self._pieces(source[layer, start:end]),
                    strict=True,
                )
                for into, out_of in pieces:
                    into.copy_(out_of, non_blocking=True)

    def _pieces(self, run: Tensor) -> Sequence[Tensor]:
        """[blocks, 2, heads, 16, dim] in parts that lie in one piece, which alone a GPU copies by
        itself: the whole, or of some heads the keys and values of each block."""
        return (run,) if self._host_kv.is_contiguous() else run.view(-1, *run.shape[2:]).unbind()


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _runs(block_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Half-open runs of consecutive ids, in ascending order."""
    ids = sorted(block_ids)
    edges = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(ids)) if b != a + 1), len(ids)]
    for start, end in pairwise(edges):
        if end > start:
            yield ids[start], ids[end - 1] + 1
