"""KV blocks in pinned memory of the host, beside a pool on a GPU.

    compute stream | gather what is evicted | ...        ...  | scatter what comes back | the step
    copy stream             \\-> into slots                \\-> out of slots /

Both directions use one copy stream, so that a slot is read behind its last save.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor

from engine.host_memory import empty_slots
from engine.kernels.block_copies import BlockCopies
from engine.pinned import pin, unpin
from runtime.recent_median import RecentMedian

_MAX_STAGED = 32  # blocks in one staging buffer of the device
_Timed = tuple[torch.cuda.Event, torch.cuda.Event, int]


class StagedHostMemory:
    """As PlainHostMemory, through staging buffers on the device. Nothing waits for a save; what is
    computed next waits for a load. Copies that have ended tell block_s."""

    def __init__(self, kv: Tensor, num_slots: int, copies: BlockCopies) -> None:
        """kv: [num_layers, num_blocks, parts, num_kv_heads, block_size, head_dim], on a GPU.

        Raises OSError for memory that cannot be pinned.
        """
        self.num_slots = num_slots
        self._kv = kv.view(torch.uint8)
        self._copies = copies
        self._slots = empty_slots(self._kv, num_slots)
        pin(self._slots)
        self._stream = torch.cuda.Stream(kv.device)  # type: ignore[no-untyped-call]
        self._timed: deque[_Timed] = deque()
        self._block_s = RecentMedian()

    @property
    def block_s(self) -> float:
        while self._timed and self._timed[0][1].query():  # type: ignore[no-untyped-call]
            begun, ended, num_blocks = self._timed.popleft()
            self._block_s.add(begun.elapsed_time(ended) / 1e3 / num_blocks)
        return self._block_s.value

    def save(self, slots: Mapping[int, int]) -> None:
        for part in _parts(slots):
            packed = self._copies.gather(self._kv, self._on_device(part.values()))
            staged = packed.transpose(0, 1).contiguous()  # [n, num_layers, ...]
            self._stream.wait_stream(torch.cuda.current_stream(self._kv.device))
            with self._copying(staged):
                for place, slot in enumerate(part):
                    self._slots[slot].copy_(staged[place], non_blocking=True)

    def load(self, slots: Mapping[int, int]) -> None:
        for part in _parts(slots):
            shape = (len(part), *self._slots.shape[1:])
            staged = torch.empty(shape, dtype=torch.uint8, device=self._kv.device)
            self._stream.wait_stream(torch.cuda.current_stream(self._kv.device))
            with self._copying(staged):
                for place, slot in enumerate(part.values()):
                    staged[place].copy_(self._slots[slot], non_blocking=True)
            torch.cuda.current_stream(self._kv.device).wait_stream(self._stream)
            packed = staged.transpose(0, 1).contiguous()
            self._copies.scatter(packed, self._on_device(part), self._kv)

    def close(self) -> None:
        if self._slots.numel():
            self._stream.synchronize()
            unpin(self._slots)
            self._slots = self._slots[:0]

    @contextmanager
    def _copying(self, staged: Tensor) -> Iterator[None]:
        """On the copy stream, timed; the buffer stays until that stream is done with it."""
        staged.record_stream(self._stream)
        begun = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            begun.record()
            yield
            ended.record()
        self._timed.append((begun, ended, staged.shape[0]))

    def _on_device(self, ids: Iterable[int]) -> Tensor:
        held = torch.tensor(list(ids), dtype=torch.int64, pin_memory=True)
        return held.to(self._kv.device, non_blocking=True)


def _parts(pairs: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """As many pairs at a time as one staging buffer takes, in order."""
    items = iter(pairs.items())
    while part := dict(islice(items, _MAX_STAGED)):
        yield part
