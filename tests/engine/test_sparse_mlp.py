"""Experts: every token gets its few, whatever the groups look like."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import KernelSet, kernel_set
from engine.kernels.reference import ReferenceKernels
from engine.layers.mlp import DenseMlp, SparseMlp
from engine.layers.routing import SoftmaxRouter

HIDDEN, INNER = 32, 48


def make_mlp(
    kernels: KernelSet, num_experts: int, taken: int, normalise: bool, dtype: torch.dtype
) -> SparseMlp:
    generator = torch.Generator().manual_seed(num_experts)

    def weight(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.2).to(dtype)

    experts = tuple(
        DenseMlp(
            kernels,
            kernels.linear(weight(2 * INNER, HIDDEN), None),
            kernels.linear(weight(HIDDEN, INNER), None),
        )
        for _ in range(num_experts)
    )
    return SparseMlp(SoftmaxRouter(weight(num_experts, HIDDEN), taken, normalise), experts)


def one_by_one(mlp: SparseMlp, x: torch.Tensor) -> torch.Tensor:
    """Each token on its own, its experts in the order of their weights."""
    weights, chosen = mlp.router(x)
    out = torch.zeros_like(x, dtype=torch.float64)
    for row in range(x.shape[0]):
        for weight, expert in zip(weights[row], chosen[row].tolist(), strict=True):
            out[row] += weight.double() * mlp.experts[expert](x[row : row + 1])[0].double()
    return out


@settings(max_examples=25)
@given(
    num_tokens=st.integers(0, 20),
    num_experts=st.integers(1, 9),
    data=st.data(),
    normalise=st.booleans(),
)
def test_groups_of_any_size_give_what_tokens_alone_give(
    num_tokens: int, num_experts: int, data: st.DataObject, normalise: bool
) -> None:
    taken = data.draw(st.integers(1, num_experts))
    mlp = make_mlp(ReferenceKernels(), num_experts, taken, normalise, torch.float32)
    x = torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(num_tokens))
    torch.testing.assert_close(mlp(x).double(), one_by_one(mlp, x), rtol=1e-4, atol=1e-5)


def test_weights_of_a_token_add_up_to_one_when_normalised() -> None:
    x = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(1))
    weights, chosen = make_mlp(ReferenceKernels(), 6, 2, True, torch.float32).router(x)
    assert torch.allclose(weights.sum(-1), torch.ones(5))
    assert all(len(set(row)) == 2 for row in chosen.tolist())


@pytest.mark.parametrize("num_tokens", [1, 3, 40])
def test_the_experts_of_a_cpu_compute_in_bfloat16(num_tokens: int) -> None:
    mlp = make_mlp(kernel_set("auto", torch.device("cpu")), 7, 2, True, torch.bfloat16)
    x = torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(2)).bfloat16()
    out = mlp(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), one_by_one(mlp, x), rtol=0.03, atol=0.02)


def test_experts_without_tokens_are_not_computed() -> None:
    computed = []

    class Counting(ReferenceKernels):
        def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
            computed.append(gate_up.shape[0])
            return super().silu_mul(gate_up)

    make_mlp(Counting(), 8, 2, True, torch.float32)(torch.ones(3, HIDDEN))
    assert computed == [3, 3]
