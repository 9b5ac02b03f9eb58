"""A step's input as bytes, for the processes that compute it together.

4 x int64: tokens, sequences, width of the tables, rows of logits | the tensors, in their order
"""

import numpy as np
import torch
from torch import Tensor

from engine.kernels import BatchInput

_WIDE, _NARROW = np.dtype(np.int64), np.dtype(np.int32)


def pack(batch: BatchInput) -> bytes:
    """The batch, which is on the host, as bytes."""
    num_sequences, width = batch.block_tables.shape
    counts = (batch.num_tokens, num_sequences, width, batch.logit_rows.shape[0])
    tensors = (
        batch.token_ids,
        batch.positions,
        batch.slots,
        batch.logit_rows,
        batch.block_tables,
        batch.query_start,
        batch.context_len,
    )
    head = np.array(counts, _WIDE).tobytes()
    return b"".join((head, *(tensor.numpy().tobytes() for tensor in tensors)))


def on_device(batch: BatchInput, device: torch.device) -> BatchInput:
    """The batch itself where it is there already."""
    if batch.token_ids.device == device:
        return batch
    return BatchInput(
        token_ids=batch.token_ids.to(device),
        positions=batch.positions.to(device),
        slots=batch.slots.to(device),
        block_tables=batch.block_tables.to(device),
        query_start=batch.query_start.to(device),
        context_len=batch.context_len.to(device),
        logit_rows=batch.logit_rows.to(device),
    )


def unpack(message: bytes) -> BatchInput:
    """The batch of `pack`. Raises ValueError for bytes of another length than they say."""
    if len(message) < 4 * _WIDE.itemsize:
        raise ValueError(f"a batch of {len(message)} bytes has no head")
    num_tokens, num_sequences, width, num_rows = np.frombuffer(message, _WIDE, 4).tolist()
    wide = (4, num_tokens, num_tokens, num_tokens, num_rows)
    narrow = (num_sequences * width, num_sequences + 1, num_sequences)
    narrow_from = sum(wide) * _WIDE.itemsize
    said = narrow_from + sum(narrow) * _NARROW.itemsize
    if min(num_tokens, num_sequences, width, num_rows) < 0 or said != len(message):
        raise ValueError(f"a batch of {len(message)} bytes says that it has {said}")
    memory = bytearray(message)
    _, token_ids, positions, slots, logit_rows = _split(memory, _WIDE, 0, wide)
    tables, query_start, context_len = _split(memory, _NARROW, narrow_from, narrow)
    return BatchInput(
        token_ids=token_ids,
        positions=positions,
        slots=slots,
        block_tables=tables.view(num_sequences, width),
        query_start=query_start,
        context_len=context_len,
        logit_rows=logit_rows,
    )


def _split(
    memory: bytearray,
    dtype: "np.dtype[np.int64] | np.dtype[np.int32]",
    start: int,
    counts: tuple[int, ...],
) -> list[Tensor]:
    """Tensors of so many elements that lie one behind the other, from byte `start` on."""
    values = np.frombuffer(memory, dtype, sum(counts), start)
    return [torch.from_numpy(part) for part in np.split(values, np.cumsum(counts)[:-1])]
