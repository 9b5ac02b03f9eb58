"""The running batch's block tables, kept from step to step, and the model's input from them."""

from array import array
from collections.abc import Sequence as Row

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.kernels import BatchInput

_Ints = NDArray[np.int32] | NDArray[np.int64]


class BlockTables:
    """One row of block ids for each running sequence.

    Whoever takes a row with `open_row` gives it back with `close_row`.
    """

    def __init__(self, max_rows: int, max_blocks: int, block_size: int) -> None:
        self._ids = np.full((max_rows, max_blocks), -1, dtype=np.int32)
        self._lengths = [0] * max_rows
        self._free = list(range(max_rows - 1, -1, -1))
        self._block_size = block_size

    @property
    def num_free_rows(self) -> int:
        return len(self._free)

    def open_row(self, block_ids: Row[int]) -> int:
        row = self._free.pop()
        self.extend(row, block_ids)
        return row

    def extend(self, row: int, block_ids: Row[int]) -> None:
        start = self._lengths[row]
        self._ids[row, start : start + len(block_ids)] = block_ids
        self._lengths[row] = start + len(block_ids)

    def close_row(self, row: int) -> None:
        self._ids[row, : self._lengths[row]] = -1
        self._lengths[row] = 0
        self._free.append(row)

    def row(self, row: int) -> list[int]:
        ids: list[int] = self._ids[row, : self._lengths[row]].tolist()
        return ids

    def batch_input(
        self,
        rows: Row[int],
        starts: Row[int],
        ends: Row[int],
        tokens: "array[int]",
        logit_rows: Row[int],
        device: torch.device,
        first_blocks: Row[int] | None = None,
    ) -> BatchInput:
        """The model's input for positions starts[i] .. ends[i] of the sequence in table rows[i].

        tokens: those of all sequences in turn. logit_rows: into these, whose logits are wanted.
        first_blocks: of each sequence, the block that its context begins with; none: the first.
        """
        row_ids = np.array(rows, dtype=np.int64)
        first, context = np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int32)
        lengths = context - first
        query_start = np.zeros(len(row_ids) + 1, dtype=np.int32)
        np.cumsum(lengths, out=query_start[1:])
        # Position of batch row t: its sequence's first position plus its distance from the
        # sequence's first batch row.
        positions = np.arange(len(tokens), dtype=np.int64)
        positions += np.repeat(first - query_start[:-1], lengths)
        blocks = self._ids[np.repeat(row_ids, lengths), positions // self._block_size]
        slots = blocks.astype(np.int64) * self._block_size + positions % self._block_size
        skipped = np.array(first_blocks or [0] * len(row_ids), dtype=np.int32)
        context -= skipped * self._block_size
        width = -(-int(context.max()) // self._block_size)
        return BatchInput(
            token_ids=_to(np.asarray(tokens, dtype=np.int64), device),
            positions=_to(positions, device),
            slots=_to(slots, device),
            block_tables=_to(self._used(row_ids, skipped, width), device),
            query_start=_to(query_start, device),
            context_len=_to(context, device),
            logit_rows=_to(np.array(logit_rows, dtype=np.int64), device),
        )

    def _used(self, row_ids: _Ints, skipped: _Ints, width: int) -> _Ints:
        """[len(row_ids), width]: the ids from each row's first block that is not skipped on."""
        if not skipped.any():
            return self._ids[row_ids, :width]
        last = self._ids.shape[1] - 1
        places = np.minimum(skipped[:, None] + np.arange(width), last)
        used: _Ints = self._ids[row_ids[:, None], places]
        return used

    def check_integrity(self) -> None:
        """Free rows are empty. Raises AssertionError."""
        assert len(set(self._free)) == len(self._free), "a table row is free twice"
        for row in self._free:
            assert self._lengths[row] == 0 and (self._ids[row] == -1).all(), f"row {row} is dirty"


def _to(values: _Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)
