"""A part of a prompt that one step computes."""

from dataclasses import dataclass

from simulate.leg import Leg
from wire.block_hash import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens start .. end of a leg's prompt, computed in one step."""

    leg: Leg
    start: int
    end: int


def add_chunk(leg: Leg, budget: int, chunks: list[Chunk]) -> int:
    """Appends the leg's next chunk, which ends at a block's edge or with the prompt; its size."""
    start = leg.num_computed
    end = min(leg.num_known, start + budget)
    edge = end - end % BLOCK_SIZE
    if end < leg.num_known and edge > start:
        end = edge
    chunks.append(Chunk(leg, start, end))
    return end - start
