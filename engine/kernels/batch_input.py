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

    @property
    def num_tokens(self) -> int:
        return self.token_ids.shape[0]

    @property
    def num_sequences(self) -> int:
        return self.context_len.shape[0]
