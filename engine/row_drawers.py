"""Which device draws tokens: the one that has the logits, where it has a kernel for it."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.draw import draw
from wire.messages import SamplingParams

# (logits [rows, vocab] float32, which it may change; each row's parameters; each row's number of
# [0, 1)) -> a token of each row, or NO_TOKEN
RowDrawer = Callable[[Tensor, Sequence[SamplingParams], NDArray[np.float64]], list[int]]


def draw_on_host(
    logits: Tensor, params: Sequence[SamplingParams], numbers: NDArray[np.float64]
) -> list[int]:
    """The plain twin: probabilities on their device, truncation and draw on the host."""
    temperature = torch.tensor([p.temperature for p in params], device=logits.device)
    probabilities = logits.div_(temperature.unsqueeze(1)).softmax(-1).cpu().numpy()
    return [draw(*row) for row in zip(probabilities, params, numbers.tolist(), strict=True)]


@functools.cache
def row_drawer(device: str) -> RowDrawer:
    """By the device's type; the host draws where Triton is missing."""
    if device != "cuda":
        return draw_on_host
    try:
        from engine.kernels.triton_kernels.drawing import draw_rows
    except ImportError:
        return draw_on_host

    def draw_on_device(
        logits: Tensor, params: Sequence[SamplingParams], numbers: NDArray[np.float64]
    ) -> list[int]:
        """Only the tokens leave the device."""
        vocab = logits.shape[1]
        tokens: list[int] = draw_rows(
            logits.contiguous(),
            np.array([p.temperature for p in params], np.float32),
            np.array([p.top_k if p.top_k < vocab else 0 for p in params], np.int32),
            np.array([p.top_p for p in params], np.float32),
            np.array([p.min_p for p in params], np.float32),
            numbers,
        ).tolist()
        return tokens

    return draw_on_device
