"""Truncated sampling without sorting the vocabulary: a floor for each row, then one inversion."""

from collections.abc import Sequence

import torch
from torch import Tensor

_NUCLEUS_SIZES = (256, 8192)  # candidates that are sorted before the whole vocabulary is
_CHUNK = 512


def floors(
    logits: Tensor, top_k: Sequence[int], top_p: Sequence[float], min_p: Sequence[float]
) -> Tensor:
    """The smallest logit that each row of [N, vocab] may still draw, [N].

    min-p, then top-k, then top-p over what the two leave; equal logits stay or go together.
    """
    floor = torch.full_like(logits[:, 0], float("-inf"))
    if any(p > 0 for p in min_p):
        share = torch.tensor(min_p, dtype=logits.dtype, device=logits.device)
        floor = torch.maximum(floor, logits.amax(-1) + share.log())
    limited = [i for i, k in enumerate(top_k) if 0 < k < logits.shape[1]]
    if limited:
        floor[limited] = torch.maximum(
            floor[limited], _kth_largest(logits[limited], [top_k[i] for i in limited])
        )
    nucleus = [i for i, p in enumerate(top_p) if p < 1.0]
    if nucleus:
        mass = torch.tensor([top_p[i] for i in nucleus], dtype=torch.float64, device=logits.device)
        floor[nucleus] = _nucleus_floor(logits[nucleus], floor[nucleus], mass)
    return floor


def draw(logits: Tensor, floor: Tensor, numbers: Tensor) -> list[int]:
    """The token of each row at which the cumulated probability passes its number in [0, 1).

    Probabilities cumulate in the order of the vocabulary, which no rounding of a logit changes.
    """
    num_rows, vocab = logits.shape
    weights = logits.new_zeros(num_rows, -(-vocab // _CHUNK) * _CHUNK)
    weights[:, :vocab] = _weights(logits, floor)
    chunks = weights.view(num_rows, -1, _CHUNK)
    chunk_ends = chunks.sum(-1, dtype=torch.float64).cumsum(-1)  # [N, num_chunks]
    target = (numbers * chunk_ends[:, -1]).unsqueeze(1)  # [N, 1]
    chunk = _first_above(chunk_ends, target)
    before = torch.nn.functional.pad(chunk_ends, (1, 0)).gather(1, chunk)
    each = torch.arange(num_rows, device=logits.device)
    inner_ends = chunks[each, chunk.squeeze(1)].double().cumsum(-1)  # [N, _CHUNK]
    inner = _first_above(inner_ends, target - before)
    tokens: list[int] = (chunk * _CHUNK + inner).squeeze(1).tolist()
    return tokens


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    """The first index whose cumulated weight passes the target, [N, 1]; at most the last that
    adds weight, which rounding of the target could miss."""
    found = torch.searchsorted(ends, target, right=True)
    last = torch.searchsorted(ends, ends[:, -1:].contiguous())
    return torch.minimum(found, last)


def _weights(logits: Tensor, floor: Tensor) -> Tensor:
    """Probabilities up to a factor for each row; 0 under the floor."""
    peak = logits.amax(-1, keepdim=True)
    return (logits - peak).exp_().masked_fill_(logits < floor.unsqueeze(1), 0.0)


def _kth_largest(logits: Tensor, ks: Sequence[int]) -> Tensor:
    top = logits.topk(max(ks), dim=-1).values
    index = torch.tensor(ks, device=logits.device).unsqueeze(1) - 1
    return top.gather(1, index).squeeze(1)


def _nucleus_floor(logits: Tensor, floor: Tensor, mass: Tensor) -> Tensor:
    """The last logit of the smallest set of largest ones that holds `mass` of what is kept."""
    needed = _weights(logits, floor).sum(-1, dtype=torch.float64) * mass
    peak = logits.amax(-1)
    result = floor.clone()
    open_rows = torch.arange(logits.shape[0], device=logits.device)
    for size in (*_NUCLEUS_SIZES, logits.shape[1]):
        top = logits[open_rows].topk(min(size, logits.shape[1]), dim=-1).values
        kept = torch.where(
            top >= floor[open_rows, None], (top - peak[open_rows, None]).exp().double(), 0.0
        )
        held = kept.cumsum(-1)
        reached = (held[:, -1] >= needed[open_rows]) | (top[:, -1] < floor[open_rows])
        reached |= size >= logits.shape[1]
        last = torch.searchsorted(held, needed[open_rows, None]).clamp_(max=top.shape[1] - 1)
        nucleus = torch.maximum(top.gather(1, last).squeeze(1), floor[open_rows])
        result[open_rows[reached]] = nucleus[reached]
        open_rows = open_rows[~reached]
        if not len(open_rows):
            break
    return result
