"""Drafts from a small model that runs ahead of the large one."""

from array import array
from collections.abc import Sequence as Row
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter

import numpy as np
from torch import Tensor

from engine.block_tables import BlockTables
from engine.draw import NO_TOKEN
from engine.forward import ForwardModel
from engine.sampler import SampleRow, sample
from engine.speculation.drafter import Wish


@dataclass(slots=True)
class _Run:
    """A sequence that the model runs ahead of."""

    wish: Wish
    drafts: list[int]

    @property
    def num_behind(self) -> int:
        """Tokens that the draft model has not computed, guessed ones included."""
        seq = self.wish.seq
        return seq.num_tokens + len(self.drafts) - seq.drafting.num_computed

    @property
    def row(self) -> SampleRow:
        """How the next draft is drawn."""
        seq = self.wish.seq
        return SampleRow(seq.request.sampling, seq.num_tokens + len(self.drafts))

    def take(self, budget: int) -> "array[int]":
        """The next of them, at most `budget`; they count as computed."""
        seq = self.wish.seq
        start = seq.drafting.num_computed
        taken = seq.tokens[start : start + budget]
        ahead = max(0, start - seq.num_tokens)
        taken.extend(self.drafts[ahead : ahead + budget - len(taken)])
        seq.drafting.num_computed += len(taken)
        return taken


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tokens of a run that one forward computes; they end at `end` of the sequence."""

    run: _Run
    tokens: "array[int]"
    end: int


class DraftModel:
    """Runs a model with the same tokens over a cache of its own.

        block table of a sequence  ->  the engine's cache, and at the same ids this one

    The two caches have the same number of blocks, so that the engine's block pool counts for
    both. What a shared block holds here depends on its tokens alone, as it does there. A sequence
    that arrives with its KV from elsewhere has none here: its tokens are computed first, a step's
    budget at a time, and until then it gets no drafts.

    Drafts are drawn as the large model's tokens are, with the number of their (seed, position), so
    that the two agree wherever their distributions do.
    """

    def __init__(self, model: ForwardModel, kv: Tensor, vocab_size: int, max_tokens: int) -> None:
        """kv: as the engine's, of this model's layers. vocab_size: of the large model; the two
        may differ in unused ids at the end. max_tokens: computed in one forward."""
        self._model = model
        self._kv = kv
        self._vocab_size = vocab_size
        self._last_id = model.config.vocab_size - 1
        self._max_tokens = max_tokens

    def propose(self, wishes: Row[Wish], tables: BlockTables) -> list[tuple[int, ...]]:
        runs = [_Run(wish, []) for wish in wishes]
        pending = sorted(runs, key=attrgetter("num_behind"))
        while pending:
            pending = self._forward(pending, tables)
        return [tuple(run.drafts) for run in runs]

    def _forward(self, runs: list[_Run], tables: BlockTables) -> list[_Run]:
        """One forward of every run that the budget holds; those that want and can have more."""
        budget = self._max_tokens
        chunks = []
        for run in runs:
            if budget > 0:
                taken = run.take(budget)
                chunks.append(_Chunk(run, taken, run.wish.seq.drafting.num_computed))
                budget -= len(taken)
        logits = self._logits(chunks, tables)[:, : self._vocab_size]
        ready = [chunk.run for chunk in chunks if not chunk.run.num_behind]
        rows = [run.row for run in ready]
        pending: list[_Run] = []
        for run, token in zip(ready, sample(logits, rows) if rows else (), strict=True):
            if token != NO_TOKEN:
                run.drafts.append(token)
                if len(run.drafts) < run.wish.count:
                    pending.append(run)
        return pending

    def _logits(self, chunks: list[_Chunk], tables: BlockTables) -> Tensor:
        """Computes the chunks; the logits behind those that reach their run's end."""
        ends = list(accumulate(len(chunk.tokens) for chunk in chunks))
        tokens = np.concatenate([chunk.tokens for chunk in chunks])
        batch = tables.batch_input(
            rows=[chunk.run.wish.seq.row for chunk in chunks],
            starts=[chunk.end - len(chunk.tokens) for chunk in chunks],
            ends=[chunk.end for chunk in chunks],
            tokens=array("I", np.minimum(tokens, self._last_id).astype(np.uint32).tobytes()),
            logit_rows=[
                end - 1 for end, chunk in zip(ends, chunks, strict=True) if not chunk.run.num_behind
            ],
            device=self._model.device,
        )
        return self._model.forward(batch, self._kv)
