"""Drafts from an EAGLE-3 head, which reads the states of the model that it guesses for."""

from array import array
from collections.abc import Sequence as Row
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from engine.block_tables import BlockTables
from engine.draw import NO_TOKEN
from engine.models.eagle import EagleHead
from engine.models.taps import Taps
from engine.sampler import SampleRow, sample
from engine.sequence import SeqState, Sequence
from engine.speculation.drafter import Span, Wish


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Positions start .. end of a sequence that the head computes.

    tokens: those behind each of them. row: of the features, the first one's. is_last: the state
    behind the last one is wanted.
    """

    seq: Sequence
    start: int
    end: int
    tokens: "array[int]"
    row: int
    is_last: bool

    @property
    def rows(self) -> range:
        return range(self.row, self.row + self.end - self.start)

    def blocks(self, block_size: int) -> range:
        """Of the sequence's blocks, those that the chunk writes into."""
        shift = self.seq.drafting.first % block_size
        return range((self.start - shift) // block_size, (self.end - shift - 1) // block_size + 1)


@dataclass(slots=True)
class _Run:
    """A sequence that the head runs ahead of."""

    wish: Wish
    drafts: list[int] = field(default_factory=list)

    @property
    def row(self) -> SampleRow:
        """How the next draft is drawn."""
        seq = self.wish.seq
        return SampleRow(seq.request.sampling, seq.num_tokens + len(self.drafts))

    def takes(self, token: int) -> bool:
        """Adds a draft; whether another one is wanted."""
        if token == NO_TOKEN:
            return False
        self.drafts.append(token)
        return len(self.drafts) < self.wish.count

    def chunk(self, row: int) -> _Chunk:
        """The latest draft, as the token behind the position before it."""
        seq = self.wish.seq
        position = seq.num_tokens + len(self.drafts) - 2
        return _Chunk(seq, position, position + 1, array("I", self.drafts[-1:]), row, True)


class EagleDrafter:
    """Follows the model a step behind it, and runs ahead of it for guesses.

    Behind a step every computed position goes through the head with the token behind it, so that
    its cache holds what the model's does; a guess then costs the head over the last state, and
    each further one a layer.

    The cache has the engine's blocks at the engine's ids. Positions that were computed elsewhere,
    or are in the prefix cache, have no states here: the head's context begins behind them, with
    the block that the first computed position is in.

        model's cache   | from elsewhere ......... | computed here ...
        head's context                             | from `first` on, that block's slot 0

    Of a prefix that this head has been over, the keys and values are still there: `_held` says
    of each block which tokens they are of, and the context takes them in.

    Drafts are drawn as the model's tokens are, with the number of their (seed, position).
    """

    def __init__(self, head: EagleHead, taps: Taps, kv: Tensor, vocab_size: int) -> None:
        """taps: of the model. kv: [1, num_blocks, 2, num_kv_heads, block_size, head_dim] in the
        head's dtype, with the engine's blocks. vocab_size: of the model."""
        self._head = head
        self._taps = taps
        self._kv = kv
        self._block_size = kv.shape[4]
        self._vocab_size = vocab_size
        self._held = np.zeros(kv.shape[1], dtype=np.uint64)

    def watch(self, spans: Row[Span], tables: BlockTables) -> None:
        states = self._taps.take()
        chunks = [self._follow(span) for span in spans if _may_guess(span)]
        if not chunks or states is None:
            return
        rows = [row for chunk in chunks for row in chunk.rows]
        if len(rows) < len(states):
            states = states[torch.tensor(rows, device=states.device)]
        ends = self._forward(self._head.fused(states), chunks, tables)
        last = [chunk for chunk in chunks if chunk.is_last]
        for chunk, state in zip(last, ends.unbind(), strict=True):
            chunk.seq.drafting.state = state
        for chunk in chunks:
            self._hold(chunk)

    def propose(self, wishes: Row[Wish], tables: BlockTables) -> list[tuple[int, ...]]:
        runs = [_Run(wish) for wish in wishes]
        pending = [run for run in runs if _is_level(run.wish.seq)]
        begun = [run.wish.seq.drafting.state for run in pending]
        states = torch.stack([state for state in begun if state is not None]) if begun else None
        while pending and states is not None:
            logits = self._head.logits(states)[:, : self._vocab_size]
            tokens = sample(logits, [run.row for run in pending])
            kept = [i for i, run in enumerate(pending) if run.takes(tokens[i])]
            pending = [pending[i] for i in kept]
            if pending:
                features = states[torch.tensor(kept, device=states.device)]
                chunks = [run.chunk(row) for row, run in enumerate(pending)]
                states = self._forward(features, chunks, tables)
        return [tuple(run.drafts) for run in runs]

    def _follow(self, span: Span) -> _Chunk:
        """The span as a chunk; a sequence that has no context yet begins one."""
        seq, record = span.seq, span.seq.drafting
        if span.start != record.num_computed or not span.start:
            record.first = self._first_held(seq, span.start)
        record.num_computed, record.state = span.end, None
        tokens = seq.tokens[span.start + 1 : span.end + 1]
        is_last = span.end == seq.num_tokens - 1
        return _Chunk(seq, span.start, span.end, tokens, span.first_row, is_last)

    def _first_held(self, seq: Sequence, start: int) -> int:
        """The first position of the blocks in front of `start` that the cache holds in a row."""
        block, rest = divmod(start, self._block_size)
        if rest:
            return start
        while block and self._held[seq.block_ids[block - 1]] == seq.block_hash(block - 1):
            block -= 1
        return block * self._block_size

    def _hold(self, chunk: _Chunk) -> None:
        """Notes which blocks are whole; a context that is shifted within its blocks has none."""
        if chunk.seq.drafting.first % self._block_size:
            return
        for block in chunk.blocks(self._block_size):
            if (block + 1) * self._block_size <= chunk.end:
                self._held[chunk.seq.block_ids[block]] = chunk.seq.block_hash(block)

    def _forward(self, features: Tensor, chunks: list[_Chunk], tables: BlockTables) -> Tensor:
        """Computes the chunks, whose positions these features are of in turn; g [L, hidden] of
        those that want it."""
        size, device = self._block_size, self._head.device
        shifts = [chunk.seq.drafting.first % size for chunk in chunks]
        ends = list(accumulate(len(chunk.tokens) for chunk in chunks))
        for chunk in chunks:
            self._held[[chunk.seq.block_ids[block] for block in chunk.blocks(size)]] = 0
        batch = tables.batch_input(
            rows=[chunk.seq.row for chunk in chunks],
            starts=[chunk.start - shift for chunk, shift in zip(chunks, shifts, strict=True)],
            ends=[chunk.end - shift for chunk, shift in zip(chunks, shifts, strict=True)],
            tokens=array("I", b"".join(chunk.tokens.tobytes() for chunk in chunks)),
            logit_rows=[end - 1 for end, c in zip(ends, chunks, strict=True) if c.is_last],
            device=device,
            first_blocks=[chunk.seq.drafting.first // size for chunk in chunks],
        )
        ending = [place for place, chunk in enumerate(chunks) if chunk.is_last]
        return self._head.forward(features, batch, torch.tensor(ending, device=device), self._kv)


def _may_guess(span: Span) -> bool:
    """Whether the sequence goes on here."""
    seq = span.seq
    running = seq.state is SeqState.RUNNING and not seq.request.prefill_only
    return running and span.end > span.start


def _is_level(seq: Sequence) -> bool:
    """Whether the head has followed up to the last computed position."""
    record = seq.drafting
    return record.state is not None and record.num_computed == seq.num_tokens - 1
