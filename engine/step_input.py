"""A step's work as the model takes it, and where in its logits each sequence's rows begin."""

from array import array
from collections.abc import Sequence as Row
from dataclasses import dataclass

import torch

from engine.batch import ScheduledChunk
from engine.block_tables import BlockTables
from engine.kernels import BatchInput
from engine.sequence import Sequence
from engine.speculation.drafter import Span, Wish
from engine.speculation.verify import Guess


@dataclass(frozen=True, slots=True)
class Work:
    """A chunk of a running sequence."""

    seq: Sequence
    chunk: ScheduledChunk

    @property
    def is_sampled(self) -> bool:
        """Whether the chunk reaches the end of the known tokens."""
        return self.chunk.end == self.seq.num_tokens

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
    for item, guessed in zip(work, drafts, strict=True):
        tokens.extend(item.seq.tokens[item.chunk.start : item.chunk.end])
        if item.is_sampled:
            guesses.append(Guess(item.seq, len(logit_rows), guessed))
            logit_rows.extend(range(len(tokens) - 1, len(tokens) + len(guessed)))
            tokens.extend(guessed)
    batch = tables.batch_input(
        rows=[item.seq.row for item in work],
        starts=[item.chunk.start for item in work],
        ends=[item.chunk.end + len(guessed) for item, guessed in zip(work, drafts, strict=True)],
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
