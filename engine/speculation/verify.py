"""Chooses a step's tokens where some of them were guessed.

    known ... t | draft d1   d2   d3
    row       0 |       1    2    3      logits after t, d1, d2, d3
    chosen    a         b    c    e      a is emitted; b too where a = d1; c too where b = d2 ...

Each token is chosen from its own logits by the same rule as without drafts, greedy or drawn with
the number of its (seed, position). An answer is therefore the same with any drafts and with none,
and each token has the model's distribution. A guess that is a single token is right with the
probability that speculative sampling accepts it with (Leviathan et al., arXiv 2211.17192, 2.3).
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Row
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.options import EngineConfig
from engine.progress import sample_row
from engine.sampler import SampleRow, has_penalties, sample
from engine.sequence import Sequence

# (sequence, token, its row of logits) -> whether the sequence goes on
Emit = Callable[[Sequence, int, int], bool]


class Guess(NamedTuple):  # made for every token: a frozen dataclass costs twice that
    """A sequence whose logits begin at first_row: those of its last known token, then of each
    draft."""

    seq: Sequence
    first_row: int
    drafts: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        return len(self.drafts) + 1

    @property
    def is_stateful(self) -> bool:
        """Whether a token has to be known before the next one can be chosen."""
        params = self.seq.request.sampling
        return params.grammar is not None or has_penalties(params)


@dataclass(slots=True)
class Verdict:
    """How far a guess has been judged: its drafts before `num_accepted` were right."""

    guess: Guess
    num_accepted: int = 0
    was_refused: bool = False

    @property
    def rows(self) -> range:
        """The logits, from the guess's first on, that can be chosen from at once."""
        begin, end = self.num_accepted, self.guess.num_rows
        return range(begin, begin + 1 if self.guess.is_stateful else end)

    def take(self, rows: range, tokens: Row[int], emit: Emit) -> bool:
        """Emits what those rows gave, as far as it holds; whether there is more to choose."""
        guess = self.guess
        for row, token in zip(rows, tokens, strict=True):
            goes_on = emit(guess.seq, token, guess.first_row + row)
            if row == len(guess.drafts):
                return False
            self.was_refused = token != guess.drafts[row]
            if self.was_refused or not goes_on:
                return False
            self.num_accepted += 1
        return True


def verify(logits: Tensor, guesses: Row[Guess], config: EngineConfig, emit: Emit) -> list[Verdict]:
    """Emits the tokens of every guess in order, until one differs from its draft or ends the
    sequence; NO_TOKEN is emitted too, and has to end it.

    logits: [rows, vocab] float32, which this may change. Without any drafts there are no verdicts.
    """
    if not any(guess.drafts for guess in guesses):
        _take_all(logits, guesses, config, emit)
        return []
    verdicts = [Verdict(guess) for guess in guesses]
    pending = verdicts
    while pending:
        spans = [verdict.rows for verdict in pending]
        tokens = iter(_choose(logits, pending, spans, config))
        pending = [
            verdict
            for verdict, span in zip(pending, spans, strict=True)
            if verdict.take(span, [next(tokens) for _ in span], emit)
        ]
    return verdicts


def _take_all(logits: Tensor, guesses: Row[Guess], config: EngineConfig, emit: Emit) -> None:
    """The usual step: a row and a token for each sequence."""
    tokens = sample(logits, [sample_row(guess.seq, config) for guess in guesses])
    for guess, token in zip(guesses, tokens, strict=True):
        emit(guess.seq, token, guess.first_row)


def _choose(
    logits: Tensor, pending: Row[Verdict], spans: Row[range], config: EngineConfig
) -> list[int]:
    places = [
        v.guess.first_row + row for v, span in zip(pending, spans, strict=True) for row in span
    ]
    chosen = logits if len(places) == len(logits) else logits[torch.tensor(places)]
    return sample(chosen, list(_sample_rows(pending, spans, config)))


def _sample_rows(
    pending: Row[Verdict], spans: Row[range], config: EngineConfig
) -> Iterator[SampleRow]:
    for verdict, span in zip(pending, spans, strict=True):
        for row in span:
            yield sample_row(verdict.guess.seq, config, row - verdict.num_accepted)
