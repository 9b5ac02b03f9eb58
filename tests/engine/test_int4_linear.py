"""Weights that stay in int4: what they stand for, put together, reordered and multiplied."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.integer_weights import Integers
from engine.kernels.int4_linear import Int4Linear, Int4Weight, stack_int4

Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def integers(
    outputs: int, group: int, groups: int, seed: int = 0, shuffled: bool = False
) -> Integers:
    generator = torch.Generator().manual_seed(seed)
    group_of = torch.arange(group * groups) // group
    if shuffled:
        group_of = group_of[torch.randperm(len(group_of), generator=generator)]
    return Integers(
        values=torch.randint(0, 16, (group * groups, outputs), generator=generator).int(),
        zeros=torch.randint(0, 16, (groups, outputs), generator=generator).int(),
        scales=torch.rand(groups, outputs, generator=generator),
        group_of=group_of,
    )


def kept(found: Integers) -> Int4Weight:
    weight = Int4Weight.of(found.values, found.zeros, found.scales, found.group_of)
    assert weight is not None
    return weight


@settings(max_examples=30, derandomize=True)
@given(
    outputs=st.integers(1, 9),
    group=st.sampled_from([32, 64]),
    groups=st.integers(1, 4),
    shuffled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_product_is_that_of_the_weight_that_is_meant(
    outputs: int, group: int, groups: int, shuffled: bool, seed: int
) -> None:
    found = integers(outputs, group, groups, seed, shuffled)
    weight = kept(found)
    x = torch.randn(5, group * groups, generator=torch.Generator().manual_seed(seed))
    wanted = x @ found.weight().T
    assert torch.allclose(Int4Linear(weight, None)(x), wanted, rtol=1e-4, atol=1e-4)
    assert weight.packed.numel() * 2 == found.values.numel()
    turned = torch.arange(outputs).flip(0)
    assert torch.allclose(
        Int4Linear(weight.rows(turned), torch.ones(outputs))(x), wanted.flip(1) + 1, atol=1e-4
    )


def test_parts_are_put_together_where_their_inputs_are_grouped_alike() -> None:
    first, second = integers(3, 32, 2), integers(5, 32, 2, seed=1)
    whole = stack_int4([kept(first), kept(second)])
    assert whole is not None
    meant = torch.cat((first.weight(), second.weight()))
    assert torch.allclose(whole.plain(torch.float32), meant, atol=1e-6)
    assert stack_int4([kept(first), None]) is None
    assert stack_int4([kept(first), kept(integers(5, 64, 1))]) is None
    assert stack_int4([kept(first), kept(integers(5, 32, 2, shuffled=True))]) is None
    shuffled = [kept(integers(2, 32, 2, seed, shuffled=True)) for seed in (3, 3, 4)]
    assert stack_int4(shuffled[:2]) is not None and stack_int4(shuffled) is None


@pytest.mark.parametrize(("group", "groups"), [(16, 4), (48, 2)])
def test_groups_of_other_sizes_are_not_kept(group: int, groups: int) -> None:
    found = integers(4, group, groups)
    assert Int4Weight.of(found.values, found.zeros, found.scales, found.group_of) is None


def test_groups_of_uneven_sizes_are_not_kept() -> None:
    found = integers(4, 32, 2)
    uneven = torch.arange(64) // 40
    assert Int4Weight.of(found.values, found.zeros, found.scales, uneven) is None
