"""Rows sorted into tiles of one group each, and experts as products over them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.reference import ReferenceKernels
from engine.kernels.row_groups import RowGroups, grouped_twin
from engine.layers.grouped_mlp import GroupedMlp
from engine.layers.mlp import DenseMlp, SparseMlp
from engine.layers.routing import SoftmaxRouter


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    tokens=st.integers(1, 400),
    groups=st.integers(1, 9),
    taken=st.integers(1, 4),
    seed=st.integers(),
)
def test_each_row_stands_in_one_tile_of_its_group(
    tokens: int, groups: int, taken: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed % 1000)
    chosen = torch.randint(0, groups, (tokens, taken), generator=generator)
    found = RowGroups.of(chosen, groups)
    seen = []
    tiles = zip(found.group_of.tolist(), found.first.tolist(), found.end.tolist(), strict=True)
    for group, first, end in tiles:
        if group < groups:
            places = found.order[first : min(first + found.tile_rows, end)].tolist()
            assert places and all(int(chosen.flatten()[place]) == group for place in places)
            seen += places
    assert sorted(seen) == list(range(tokens * taken))


def test_experts_in_one_tensor_give_what_experts_alone_give() -> None:
    kernels, generator = ReferenceKernels(), torch.Generator().manual_seed(3)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    gate_up, down = weight(6, 48, 32), weight(6, 32, 24)
    router = SoftmaxRouter(weight(6, 32), 2, True)
    experts = tuple(
        DenseMlp(kernels, kernels.linear(gate_up[i], None), kernels.linear(down[i], None))
        for i in range(6)
    )
    shared = DenseMlp(
        kernels, kernels.linear(weight(16, 32), None), kernels.linear(weight(32, 8), None)
    )
    grouped = GroupedMlp(kernels, grouped_twin, router, gate_up, down, shared)
    for tokens in (0, 1, 7, 200):
        x = torch.randn(tokens, 32, generator=generator)
        assert torch.allclose(grouped(x), SparseMlp(router, experts, shared)(x), atol=1e-5)
