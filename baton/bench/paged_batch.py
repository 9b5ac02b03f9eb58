"""Batches over scattered blocks, for measurements."""

from collections.abc import Sequence

import torch

from engine.kernels import BatchInput

BLOCK = 16


def paged_batch(lengths: Sequence[tuple[int, int]], device: torch.device) -> BatchInput:
    """Sequences of (query tokens, context) over scattered blocks; contexts fill their blocks."""
    num_blocks = sum(context for _, context in lengths) // BLOCK
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1))
    width = max(context for _, context in lengths) // BLOCK
    tables = torch.full((len(lengths), width), -1, dtype=torch.int32)
    positions, slots, starts, used = [], [], [0], 0
    for sequence, (queries, context) in enumerate(lengths):
        table = order[used : used + context // BLOCK]
        tables[sequence, : len(table)] = table
        used += len(table)
        tokens = torch.arange(context - queries, context)
        positions.append(tokens)
        slots.append(table[tokens // BLOCK] * BLOCK + tokens % BLOCK)
        starts.append(starts[-1] + queries)
    return BatchInput(
        token_ids=torch.zeros(starts[-1], dtype=torch.int64, device=device),
        positions=torch.cat(positions).to(device),
        slots=torch.cat(slots).to(device),
        block_tables=tables.to(device),
        query_start=torch.tensor(starts, dtype=torch.int32, device=device),
        context_len=torch.tensor([c for _, c in lengths], dtype=torch.int32, device=device),
        logit_rows=torch.tensor([s - 1 for s in starts[1:]], device=device),
    )
