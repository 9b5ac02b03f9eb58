"""Whole blocks of every layer between the paged cache and one contiguous buffer."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class BlockCopies:
    """gather(kv, block_ids): the blocks of kv [num_layers, num_blocks, ...] side by side,
    [num_layers, n, ...]; block_ids is [n] int64 on kv's device. scatter(buffer, block_ids, kv):
    the same back."""

    gather: Callable[[Tensor, Tensor], Tensor]
    scatter: Callable[[Tensor, Tensor, Tensor], None]


def _gather(kv: Tensor, block_ids: Tensor) -> Tensor:
    return kv.index_select(1, block_ids)


def _scatter(buffer: Tensor, block_ids: Tensor, kv: Tensor) -> None:
    kv.index_copy_(1, block_ids, buffer)


PLAIN_COPIES = BlockCopies(_gather, _scatter)
