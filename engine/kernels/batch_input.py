"""One step's tokens as the kernels see them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BatchInput:
    """The tokens of S sequences, one after the other: T in all, on one device.

    A sequence gives one token when it decodes and a run of consecutive positions when it
    prefills; the keys and values before its first token are already in the cache.

        tokens     | seq 0 | seq 1      | seq 2 |
        row        0       1            5       6   = query_start
    """

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, 0-based in their sequence
    slots: Tensor  # [T] int64, block * block_size + offset: where each token's keys and values go
    block_tables: Tensor  # [S, max_blocks] int32, padded with -1
    query_start: Tensor  # [S + 1] int32, first row of each sequence, then T
    context_len: Tensor  # [S] int32, tokens in the cache once this step's are stored
    logit_rows: Tensor  # [L] int64, rows of T whose logits are wanted

    def __post_init__(self) -> None:
        for tensor in (self.token_ids, self.positions, self.slots, self.logit_rows):
            assert tensor.dtype == torch.int64 and tensor.is_contiguous(), tensor.dtype
        for tensor in (self.block_tables, self.query_start, self.context_len):
            assert tensor.dtype == torch.int32 and tensor.is_contiguous(), tensor.dtype

    def check_bounds(self, num_blocks: int, block_size: int, num_positions: int) -> None:
        """Assert that every index lies within the cache and the rotary table. It waits for the
        device, so it is for kernels on a CPU, which read and write wherever they are told to."""
        if self.num_tokens == 0:
            return
        assert int(self.slots.min()) >= 0 and int(self.slots.max()) < num_blocks * block_size
        assert int(self.positions.min()) >= 0 and int(self.positions.max()) < num_positions
        assert int(self.block_tables.max()) < num_blocks
        assert int(self.context_len.max()) <= self.block_tables.shape[1] * block_size
        assert self.query_start.shape[0] == self.num_sequences + 1 == self.block_tables.shape[0] + 1

    @property
    def num_tokens(self) -> int:
        return self.token_ids.shape[0]

    @property
    def num_sequences(self) -> int:
        return self.context_len.shape[0]
