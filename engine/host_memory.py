"""KV blocks in the host's memory, beside the pool that the engine computes in."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from runtime.clock import Clock
from runtime.recent_median import RecentMedian


class HostMemory(Protocol):
    """Slots for whole blocks, of all layers. What is computed after a call sees its copies, and a
    slot that is loaded has the bytes of its last save."""

    @property
    def num_slots(self) -> int: ...

    @property
    def block_s(self) -> float:
        """Seconds that a block takes in one direction; 0 until a copy was measured."""

    def save(self, slots: Mapping[int, int]) -> None:
        """Copies a block into each slot: slot -> block."""

    def load(self, slots: Mapping[int, int]) -> None:
        """Copies slots into blocks: block -> slot."""

    def close(self) -> None:
        """Gives the memory back; safe to call twice."""


class PlainHostMemory:
    """Beside a pool that is in the host's memory, too."""

    def __init__(self, kv: Tensor, num_slots: int, clock: Clock) -> None:
        """kv: [num_layers, num_blocks, parts, num_kv_heads, block_size, head_dim]."""
        self.num_slots = num_slots
        self._block_s = RecentMedian()
        self._clock = clock
        self._kv = kv.view(torch.uint8)
        self._slots = empty_slots(self._kv, num_slots)

    @property
    def block_s(self) -> float:
        return self._block_s.value

    def save(self, slots: Mapping[int, int]) -> None:
        begun_s = self._clock.now()
        for slot, block_id in slots.items():
            self._slots[slot].copy_(self._kv[:, block_id])
        self._took(self._clock.now() - begun_s, len(slots))

    def load(self, slots: Mapping[int, int]) -> None:
        begun_s = self._clock.now()
        for block_id, slot in slots.items():
            self._kv[:, block_id].copy_(self._slots[slot])
        self._took(self._clock.now() - begun_s, len(slots))

    def close(self) -> None:
        self._slots = self._slots[:0]

    def _took(self, seconds: float, num_blocks: int) -> None:
        if num_blocks:
            self._block_s.add(seconds / num_blocks)


def slots_in(kv: Tensor, num_bytes: int) -> int:
    """How many blocks of that pool so many bytes hold. Raises ValueError where they hold none."""
    block_bytes = kv[:, 0].numel() * kv.dtype.itemsize
    if num_bytes < block_bytes:
        raise ValueError(
            f"host_kv_memory of {num_bytes} bytes is less than one KV block of {block_bytes} bytes"
        )
    return num_bytes // block_bytes


def empty_slots(kv: Tensor, num_slots: int) -> Tensor:
    """[num_slots, num_layers, ...]: a block's bytes of all layers lie together."""
    return torch.empty((num_slots, kv.shape[0], *kv.shape[2:]), dtype=kv.dtype)
