"""Drawing on the device against the twin on the host, which has the definitions' tests."""

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")

from engine.draw import draw  # noqa: E402
from engine.kernels.triton_kernels.drawing import draw_rows  # noqa: E402
from wire.messages import SamplingParams  # noqa: E402

if not torch.cuda.is_available() and not triton.knobs.runtime.interpret:
    pytest.skip("neither a GPU nor the interpreter is here", allow_module_level=True)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHOICES = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 100_000},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.01},
]


def tokens_of(logits: torch.Tensor, params: list[SamplingParams], numbers: np.ndarray) -> list[int]:
    vocab = logits.shape[1]
    out = draw_rows(
        logits.to(DEVICE),
        np.array([p.temperature for p in params], np.float32),
        np.array([p.top_k if p.top_k < vocab else 0 for p in params], np.int32),
        np.array([p.top_p for p in params], np.float32),
        np.array([p.min_p for p in params], np.float32),
        numbers,
    )
    return out.tolist()


def twins(logits: torch.Tensor, params: list[SamplingParams], numbers: np.ndarray) -> list[int]:
    temperatures = torch.tensor([p.temperature for p in params]).unsqueeze(1)
    shares = (logits / temperatures).softmax(-1).numpy()
    return [draw(*row) for row in zip(shares, params, numbers.tolist(), strict=True)]


@pytest.mark.parametrize("vocab", [3, 700, 2500])
@pytest.mark.parametrize("choice", CHOICES)
def test_each_row_gives_the_token_that_the_host_draws(vocab: int, choice: dict) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(4, vocab, generator=generator) * 3
    params = [SamplingParams(temperature=0.4 + 0.3 * row, **choice) for row in range(4)]
    numbers = np.random.default_rng(vocab).random(4)
    assert tokens_of(logits, params, numbers) == twins(logits, params, numbers)


def test_equal_logits_stay_together_and_forbidden_ones_are_not_drawn() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 5.0, float("-inf"), 0.0]]).repeat(16, 1)
    params = [SamplingParams(temperature=1.0, top_k=2)] * 16
    numbers = np.arange(16) / 16
    found = tokens_of(logits, params, numbers)
    assert found == twins(logits, params, numbers)
    assert set(found) == {1, 2, 3}
    alone = torch.full((1, 5000), float("-inf"))
    alone[0, 4321] = -7.0
    assert tokens_of(alone, [SamplingParams(temperature=1.0)], np.array([0.999])) == [4321]


def test_the_ends_of_the_numbers_give_tokens_with_weight() -> None:
    logits = torch.full((2, 4097), -300.0)
    logits[:, 100:200] = 0.0
    params = [SamplingParams(temperature=1.0)] * 2
    assert tokens_of(logits, params, np.array([0.0, 1 - 2.0**-53])) == [100, 199]


@pytest.mark.parametrize("worst", [float("nan"), float("inf")])
def test_a_row_without_finite_logits_has_no_token(worst: float) -> None:
    logits = torch.zeros(3, 300)
    logits[1, 17] = worst
    logits[2] = float("-inf")
    params = [SamplingParams(temperature=1.0, top_k=5, top_p=0.5)] * 3
    found = tokens_of(logits, params, np.full(3, 0.4))
    assert found[0] >= 0 and found[1:] == [-1, -1]


def test_draws_have_the_distribution() -> None:
    probabilities = torch.tensor([0.05, 0.6, 0.2, 0.15])
    logits = probabilities.log().repeat(60, 1)
    params = [SamplingParams(temperature=1.0)] * 60
    numbers = (np.arange(60) + 0.5) / 60
    counts = np.bincount(tokens_of(logits, params, numbers), minlength=4) / 60
    assert counts.tolist() == pytest.approx(probabilities.tolist(), abs=1 / 60)
