"""The Triton kernel for weights in int4, against the plain twin."""

import pytest
import torch

triton = pytest.importorskip("triton")

from engine.kernels.int4_linear import Int4Linear, Int4Weight  # noqa: E402
from engine.kernels.triton_kernels import TritonKernels  # noqa: E402
from engine.kernels.triton_kernels.int4_product import MOST_ROWS, int4_product  # noqa: E402

INTERPRETED = bool(triton.knobs.runtime.interpret)
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("neither a GPU nor the interpreter is here", allow_module_level=True)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weight_of(outputs: int, group: int, groups: int, shuffled: bool) -> Int4Weight:
    generator = torch.Generator().manual_seed(outputs + group)
    group_of = torch.arange(group * groups) // group
    if shuffled:
        group_of = group_of[torch.randperm(len(group_of), generator=generator)]
    weight = Int4Weight.of(
        torch.randint(0, 16, (group * groups, outputs), generator=generator),
        torch.randint(0, 16, (groups, outputs), generator=generator),
        torch.rand(groups, outputs, generator=generator),
        group_of,
    )
    assert weight is not None
    return weight.to(DEVICE)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "outputs", "group", "groups"), [(1, 40, 32, 3), (17, 32, 64, 1), (3, 5, 128, 2)]
)
def test_a_few_rows_are_multiplied_as_by_the_twin(
    rows: int, outputs: int, group: int, groups: int, has_bias: bool
) -> None:
    weight = weight_of(outputs, group, groups, shuffled=has_bias)
    x, bias = randn(rows, group * groups), randn(outputs) if has_bias else None
    found = TritonKernels().linear(weight, bias)(x)
    wanted = Int4Linear(weight, bias)(x)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [0, MOST_ROWS + 1])
def test_other_numbers_of_rows_are_left_to_torch(rows: int) -> None:
    weight, x = weight_of(8, 32, 1, shuffled=False), randn(rows, 32)
    assert torch.equal(TritonKernels().linear(weight, None)(x), Int4Linear(weight, None)(x))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter multiplies bf16 as integers")
def test_bfloat16_stays_near_float32() -> None:
    weight, x = weight_of(48, 128, 8, shuffled=False), randn(4, 1024)
    found = int4_product(x.bfloat16(), weight, None).float()
    wanted = Int4Linear(weight, None)(x)
    assert (found - wanted).norm() < 0.02 * wanted.norm()
