"""Weights that stay in fp8: exact where they were, near float32 where both sides are rounded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels.fp8_linear import (
    FP8,
    FP8_LARGEST,
    Fp8Linear,
    Fp8Weight,
    fits_fp8,
    quantise_rows,
    twin_product,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def plain(weight: Fp8Weight) -> Tensor:
    return weight.values.float() * weight.scales.unsqueeze(1)


@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 999), exponent=st.integers(-20, 20))
def test_a_checkpoints_values_are_found_again(seed: int, exponent: int) -> None:
    """As a tool stores them: each output's largest value is e4m3's largest."""
    stored = Fp8Weight.of(randn(16, 48, seed=seed) * 2.0**exponent)
    assert (stored.values.float().abs().amax(1) == FP8_LARGEST).all()
    again = Fp8Weight.of(plain(stored))
    assert torch.equal(again.values.float(), stored.values.float())
    assert torch.allclose(again.scales, stored.scales, rtol=1e-6)


@pytest.mark.parametrize("step", [0.013, 1.0, 7.7])
def test_values_with_one_scale_or_in_blocks_of_powers_of_two_are_found_again(step: float) -> None:
    powers = torch.tensor([[0, -3], [2, -1]]).repeat_interleave(8, 0).repeat_interleave(16, 1)
    scales = step * torch.exp2(powers.float())
    stored = ((randn(16, 32) / scales).clamp(-30, 30).to(FP8).float() + 0.0) * scales
    again = Fp8Weight.of(stored, torch.full((16,), step))
    assert torch.equal(plain(again), stored)


def test_a_row_of_zeros_stays_zero_and_no_rows_give_none() -> None:
    values, scales = quantise_rows(torch.zeros(2, 32))
    assert (values.float() == 0).all() and (scales > 0).all()
    linear = Fp8Linear(Fp8Weight.of(randn(16, 32)), randn(16))
    assert linear(torch.zeros(0, 32)).shape == (0, 16)
    assert torch.equal(linear(torch.zeros(1, 32))[0], randn(16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_near_the_one_of_plain_weights(dtype: torch.dtype) -> None:
    weight, bias, x = randn(64, 128), randn(64), randn(9, 128, seed=4)
    found = Fp8Linear(Fp8Weight.of(weight), bias.to(dtype))(x.to(dtype))
    wanted = x @ weight.T + bias
    assert found.dtype == dtype
    assert (found.float() - wanted).norm() < 0.05 * wanted.norm()


def test_the_twin_is_torchs_scaled_product() -> None:
    weight, (rows, scales) = Fp8Weight.of(randn(32, 64)), quantise_rows(randn(5, 64))
    try:
        theirs = torch._scaled_mm(
            rows,
            weight.values.T,
            scale_a=scales,
            scale_b=weight.scales.unsqueeze(0),
            out_dtype=torch.bfloat16,
        )
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"this processor has no scaled product: {error}")
    ours = twin_product(rows, scales, weight)
    assert torch.allclose(ours, theirs.float(), rtol=1e-2, atol=1e-2 * ours.abs().max().item())


def test_sizes_that_no_scaled_product_takes_are_told() -> None:
    assert fits_fp8(torch.empty(32, 16)) and not fits_fp8(torch.empty(24, 16))
    assert not fits_fp8(torch.empty(16, 40))
    assert Fp8Weight.of(randn(16, 16)).values.dtype == FP8
