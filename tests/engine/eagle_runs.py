"""Engines that guess with an EAGLE-3 head, and what their guesses are by its description."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from eagle_heads import ReferenceHead
from torch import Tensor

from engine.block_tables import BlockTables
from engine.eagle_config import read_eagle
from engine.models import Model
from engine.models.eagle import EagleHead
from engine.models.taps import Taps
from engine.speculation.drafter import Wish
from engine.speculation.eagle import EagleDrafter
from engine.speculation.eagle_weights import load_eagle


class Recorder(EagleDrafter):
    """Keeps what it was asked and what it found."""

    def __init__(self, head: EagleHead, taps: Taps, kv: Tensor, vocab_size: int) -> None:
        super().__init__(head, taps, kv, vocab_size)
        self.found: list[tuple[list[int], int, tuple[int, ...]]] = []

    def propose(self, wishes: Sequence[Wish], tables: BlockTables) -> list[tuple[int, ...]]:
        drafts = super().propose(wishes, tables)
        for wish, guessed in zip(wishes, drafts, strict=True):
            self.found.append((list(wish.seq.tokens), wish.seq.drafting.first, guessed))
        return drafts


def guessing(model: Model, directory: Path, num_blocks: int = 256) -> tuple[Model, Recorder]:
    """The model with taps for the head in that directory, and the head over a cache of NaN."""
    config = read_eagle(directory)
    assert config is not None
    taps = Taps(config.layers_of(model.config))
    tapped = replace(model, taps=taps)
    head = load_eagle(directory, config, tapped, model.config.max_position_embeddings)
    kv = torch.full(config.layer.kv_shape(num_blocks), float("nan"))
    return tapped, Recorder(head, taps, kv, model.config.vocab_size)


def check_guesses(oracle, reference: ReferenceHead, drafter: Recorder) -> int:
    """Each greedy guess is the description's, within the rounding of equal logits; how many."""
    num_guesses = 0
    longest = max((tokens for tokens, _, _ in drafter.found), key=len)
    states: dict[tuple[int, ...], Tensor] = {}
    for tokens, first, guessed in drafter.found:
        key = tuple(longest if longest[: len(tokens)] == tokens else tokens)
        if key not in states:
            states[key] = reference.states(oracle.reference, list(key))
        known = list(tokens)
        for logits, token in zip(
            reference.chain(states[key], tokens, len(guessed), first), guessed, strict=True
        ):
            known.append(token)
            place = int((reference.targets == token).nonzero())
            if place != int(logits.argmax()):
                assert float(logits.max() - logits[place]) < 1e-4, (len(tokens), guessed)
                break
            num_guesses += 1
    return num_guesses
