"""How many drafts each sequence of a step is worth."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# Seconds of steps of these sizes, in tokens.
CostOf = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def worthwhile(
    acceptances: Sequence[float],
    max_drafts: Sequence[int],
    budget: int,
    cost_of: CostOf,
    round_s: float = 0.0,
) -> list[int]:
    """The drafts of each sequence that give the most expected tokens a second.

    acceptances: the chance that a sequence's next draft is right; its i-th draft gives a token
    with that chance to the power of i. max_drafts: at most so many of each. budget: of all
    together. round_s: what a further draft of the longest row of drafts costs the drafter.

    Drafts are taken in the order of their chances, and of all beginnings of that order the one
    with the best ratio of tokens to seconds. Without known costs every draft is worthwhile.
    """
    depth = max(max_drafts, default=0)
    counts = np.zeros(len(acceptances), dtype=np.int64)
    if depth == 0 or budget <= 0:
        return [int(count) for count in counts]
    depths = np.arange(1, depth + 1)
    chances = np.array(acceptances)[:, None] ** depths
    chances[depths > np.array(max_drafts)[:, None]] = -1.0
    order = np.argsort(-chances.ravel(), kind="stable")
    order = order[: min(budget, int(np.sum(max_drafts)))]
    tokens = len(counts) + np.concatenate(([0.0], np.cumsum(chances.ravel()[order])))
    rounds = np.concatenate(([0], np.maximum.accumulate(order % depth + 1)))
    seconds = cost_of(len(counts) + np.arange(len(order) + 1)) + round_s * rounds
    best = len(order) if not seconds.all() else int(np.argmax(tokens / seconds))
    np.add.at(counts, order[:best] // depth, 1)
    return [int(count) for count in counts]
