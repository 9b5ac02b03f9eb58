"""Draws a token from each row of logits without sorting it: the twin of engine/draw.py.

1. the largest logit and the sum of weights exp((logit - largest) / temperature)
2. min-p, top-k and top-p as the smallest weight that stays; those of the last two are searched
   for in the bits of a float, three bits a pass, since weights order as their bits do
3. the token at which the kept weights, in the vocabulary's order, pass `number` of their sum
"""

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

TILE = 2048
NO_TOKEN = tl.constexpr(-1)


@triton.jit
def _weights(row_ptr, start, vocab, peak, temperature, tile: tl.constexpr):
    """The weights of one tile, 0 behind the vocabulary."""
    columns = start + tl.arange(0, tile)
    logits = tl.load(row_ptr + columns, mask=columns < vocab, other=float("-inf"))
    return tl.exp((logits - peak) / temperature)


@triton.jit
def _held(
    row_ptr, vocab, peak, temperature, floor, candidates, counts: tl.constexpr, tile: tl.constexpr
):
    """For each of 8 candidates how many weights reach it and the floor, or their sum: [8]."""
    held = tl.zeros((8,), tl.float64)
    for start in range(0, vocab, tile):
        weights = _weights(row_ptr, start, vocab, peak, temperature, tile)
        stays = (weights[None, :] >= candidates[:, None]) & (weights >= floor)[None, :]
        if counts:
            # What is behind the vocabulary weighs 0, and so may a token.
            inside = (start + tl.arange(0, tile) < vocab)[None, :]
            held += tl.sum((stays & inside).to(tl.int32), axis=1).to(tl.float64)
        else:
            held += tl.sum(tl.where(stays, weights[None, :], 0.0), axis=1).to(tl.float64)
    return held


@triton.jit
def _largest_that_holds(
    row_ptr, vocab, peak, temperature, floor, wanted, counts: tl.constexpr, tile: tl.constexpr
):
    """The largest weight that, with all above it, still has `wanted` tokens or mass."""
    bits = tl.zeros((), tl.int32)
    for shift in tl.static_range(27, -1, -3):  # weights are at most 1: 30 bits
        candidates = (bits + (tl.arange(0, 8) << shift)).to(tl.float32, bitcast=True)
        held = _held(row_ptr, vocab, peak, temperature, floor, candidates, counts, tile)
        best = tl.sum((held >= wanted).to(tl.int32), axis=0) - 1
        bits += tl.maximum(best, 0) << shift
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _pick(row_ptr, vocab, peak, temperature, floor, top_k, top_p, number, tile: tl.constexpr):
    """The token of one row; floor: what min-p leaves."""
    if top_k > 0:
        kth = _largest_that_holds(
            row_ptr, vocab, peak, temperature, 0.0, top_k.to(tl.float64), True, tile
        )
        floor = tl.maximum(floor, kth)
    lanes = tl.arange(0, tile)
    nothing = tl.zeros((8,), tl.float32)
    if top_p < 1.0:
        masses = _held(row_ptr, vocab, peak, temperature, floor, nothing, False, tile)
        wanted = top_p.to(tl.float64) * tl.max(masses, axis=0)
        least = _largest_that_holds(row_ptr, vocab, peak, temperature, floor, wanted, False, tile)
        floor = tl.maximum(floor, least)

    masses = _held(row_ptr, vocab, peak, temperature, floor, nothing, False, tile)
    target = number * tl.max(masses, axis=0)
    before = target * 0.0
    found = -1
    last = -1
    for start in range(0, vocab, tile):
        weights = _weights(row_ptr, start, vocab, peak, temperature, tile)
        weights = tl.where(weights >= floor, weights, 0.0)
        ends = before + tl.cumsum(weights.to(tl.float64), axis=0)
        passed = tl.min(tl.where(ends > target, lanes, tile), axis=0)
        found = tl.where((found < 0) & (passed < tile), start + passed, found)
        last = tl.maximum(last, tl.max(tl.where(weights > 0.0, start + lanes, -1), axis=0))
        before += tl.sum(weights, axis=0).to(tl.float64)
    # Rounding may leave the target just behind the last token that adds weight.
    return tl.where(found < 0, last, tl.minimum(found, last))


@triton.jit
def _draw(
    logits_ptr,  # float32 [rows, vocab]
    temperature_ptr,  # float32 [rows]
    top_k_ptr,  # int32 [rows], 0 for all
    top_p_ptr,  # float32 [rows]
    min_p_ptr,  # float32 [rows]
    number_ptr,  # float64 [rows], of [0, 1)
    out_ptr,  # int64 [rows]
    vocab,
    tile: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * vocab
    temperature = tl.load(temperature_ptr + row)
    lanes = tl.arange(0, tile)

    peaks = tl.full((tile,), float("-inf"), tl.float32)
    wrong = tl.zeros((tile,), tl.int32)
    for start in range(0, vocab, tile):
        columns = start + lanes
        logits = tl.load(row_ptr + columns, mask=columns < vocab, other=float("-inf"))
        wrong = wrong | ((logits != logits) | (logits == float("inf"))).to(tl.int32)
        peaks = tl.maximum(peaks, logits)
    peak = tl.max(peaks, axis=0)
    is_wrong = (tl.max(wrong, axis=0) > 0) | (peak == float("-inf"))
    token = NO_TOKEN
    if not is_wrong:
        token = _pick(
            row_ptr, vocab, peak, temperature, tl.load(min_p_ptr + row), tl.load(top_k_ptr + row),
            tl.load(top_p_ptr + row), tl.load(number_ptr + row), tile,
        )  # fmt: skip
    tl.store(out_ptr + row, token)


def draw_rows(
    logits: Tensor,
    temperatures: NDArray[np.float32],
    top_ks: NDArray[np.int32],
    top_ps: NDArray[np.float32],
    min_ps: NDArray[np.float32],
    numbers: NDArray[np.float64],
) -> Tensor:
    """A token of each row of logits [rows, vocab] float32, contiguous: [rows] int64.

    top_ks: 0 keeps all. A row without a finite largest logit gives -1. One program a row reads it
    3 times, and 10 times more for each of top-k and top-p; the row stays in the L2 cache.
    """
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)

    def there(values: "NDArray[np.generic]") -> Tensor:
        return torch.from_numpy(values).to(logits.device, non_blocking=True)

    _draw[(rows,)](
        logits,
        there(temperatures),
        there(top_ks),
        there(top_ps),
        there(min_ps),
        there(numbers),
        out,
        vocab,
        tile=TILE,
        num_warps=8,
    )
    return out
