"""CUDA graphs of decode steps, one for each of a few batch sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.models import BatchInput, Model

WARM_UPS = 2  # kernels compile and libraries choose their plans before a capture


def padding_batch(num_sequences: int, max_blocks: int, device: torch.device) -> BatchInput:
    """A decode step of nothing: its tokens have no slot and its sequences no context."""
    rows = torch.arange(num_sequences + 1, device=device)
    return BatchInput(
        token_ids=torch.zeros_like(rows[1:]),
        positions=torch.zeros_like(rows[1:]),
        slots=torch.full_like(rows[1:], -1),
        block_tables=torch.full((num_sequences, max_blocks), -1, dtype=torch.int32, device=device),
        query_start=rows.int(),
        context_len=torch.zeros_like(rows[1:], dtype=torch.int32),
        logit_rows=rows[:-1].clone(),
    )


def refill(target: BatchInput, batch: BatchInput) -> None:
    """Make a padding batch hold the decode step `batch`, and padding after it.

    Entries of a block table after a sequence's context keep what an earlier step left: no kernel
    reads them.
    """
    count, width = batch.num_sequences, batch.block_tables.shape[1]
    target.token_ids[:count].copy_(batch.token_ids)
    target.positions[:count].copy_(batch.positions)
    target.slots[:count].copy_(batch.slots)
    target.slots[count:].fill_(-1)
    target.block_tables[:count, :width].copy_(batch.block_tables)
    target.context_len[:count].copy_(batch.context_len)
    target.context_len[count:].zero_()


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: BatchInput  # what the graph reads
    logits: Tensor  # what it writes, [num_sequences, vocab] float32
    states: Tensor | None  # what it leaves in the model's taps


class DecodeGraphs:
    """Replays decode steps of one model over one cache, which both outlive it.

    A step of n sequences runs in the smallest captured batch that holds them; the rest of that
    batch is padding that writes nothing. The kernels must be those of TritonKernels: nothing in
    them waits for the device, and a negative slot is not stored.
    """

    def __init__(self, model: Model, kv: Tensor, sizes: Sequence[int], max_blocks: int) -> None:
        """Capture a graph for each batch size. `max_blocks` is the widest block table."""
        self._captured: dict[int, _Captured] = {}
        self._max_blocks = max_blocks
        self._taps = model.taps
        pool: Any = None
        for size in sorted(sizes, reverse=True):  # the largest first, so that the rest fit its pool
            captured = _capture(model, kv, padding_batch(size, max_blocks, kv.device), pool)
            pool = captured.graph.pool()
            self._captured[size] = captured
        torch.cuda.synchronize(kv.device)

    def fits(self, batch: BatchInput) -> bool:
        """Whether the batch is a decode step, each row's logits wanted, of a captured size."""
        return (
            batch.num_tokens == batch.num_sequences == batch.logit_rows.shape[0]
            and batch.num_sequences <= max(self._captured)
            and batch.block_tables.shape[1] <= self._max_blocks
        )

    def forward(self, batch: BatchInput) -> Tensor:
        """Logits [S, vocab] float32 of a decode step that fits, valid until the next call."""
        assert self.fits(batch)
        size = min(size for size in self._captured if size >= batch.num_sequences)
        captured = self._captured[size]
        refill(captured.batch, batch)
        captured.graph.replay()
        if self._taps is not None and captured.states is not None:
            self._taps.states = captured.states[: batch.num_sequences]
        return captured.logits[: batch.num_sequences]


class GraphedModel:
    """A model whose decode steps replay graphs; everything else runs as it is."""

    def __init__(self, model: Model, kv: Tensor, sizes: Sequence[int], max_blocks: int) -> None:
        self._model = model
        self._graphs = DecodeGraphs(model, kv, sizes, max_blocks)

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def device(self) -> torch.device:
        return self._model.device

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """As Model.forward, over the cache of the graphs; a replay tells of its layers at once."""
        if not self._graphs.fits(batch):
            return self._model.forward(batch, kv, on_layers)
        logits = self._graphs.forward(batch)
        if on_layers is not None:
            for num_layers in range(1, self.config.num_layers + 1):
                on_layers(num_layers)
        return logits


def _capture(model: Model, kv: Tensor, batch: BatchInput, pool: Any) -> _Captured:
    side = torch.cuda.Stream(kv.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(kv.device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            model.forward(batch, kv)
    torch.cuda.current_stream(kv.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        logits = model.forward(batch, kv)
    return _Captured(graph, batch, logits, None if model.taps is None else model.taps.take())
