"""A step's work as the model takes it, and where in its logits each sequence's rows begin."""

from array import array
from collections.abc import Sequence as Row
from typing import NamedTuple

import torch

from engine.batch import ScheduledChunk
from engine.block_tables import BlockTables
from engine.kernels import BatchInput
from engine.sequence import Sequence
from engine.speculation.drafter import Span, Wish
from engine.speculation.verify import Guess


class Work(NamedTuple):  # made for every token: a frozen dataclass costs twice that
    """A chunk of a running sequence. is_sampled: it reaches the end of the known tokens."""

    seq: Sequence
    chunk: ScheduledChunk
    is_sampled: bool

    @property
    def wish(self) -> Wish:
        return Wish(self.seq, self.chunk.max_drafts if self.is_sampled else 0)


def step_input(
    work: Row[Work], drafts: Row[tuple[int, ...]], tables: BlockTables, device: torch.device
) -> tuple[BatchInput, list[Guess]]:
    """The model's input for the chunks with their drafts behind them, and the guess of each
    sampled sequence in the order of the logits."""
    tokens: array[int] = array("I")
    logit_rows: list[int] = []
    guesses = []
    rows, starts, ends = [], [], []
    for (seq, chunk, is_sampled), guessed in zip(work, drafts, strict=True):
        start, end = chunk.start, chunk.end
        tokens.extend(seq.tokens[start:end])
        if is_sampled:
            guesses.append(Guess(seq, len(logit_rows), guessed))
            logit_rows.append(len(tokens) - 1)
            if guessed:
                logit_rows.extend(range(len(tokens), len(tokens) + len(guessed)))
                tokens.extend(guessed)
        rows.append(seq.row)
        starts.append(start)
        ends.append(end + len(guessed))
    batch = tables.batch_input(
        rows=rows,
        starts=starts,
        ends=ends,
        tokens=tokens,
        logit_rows=logit_rows,
        device=device,
    )
    return batch, guesses


def spans(work: Row[Work], drafts: Row[tuple[int, ...]]) -> list[Span]:
    """What a step of these computed, once its tokens are chosen."""
    found, row = [], 0
    for item, guessed in zip(work, drafts, strict=True):
        found.append(Span(item.seq, item.chunk.start, row))
        row += item.chunk.end - item.chunk.start + len(guessed)
    return found
