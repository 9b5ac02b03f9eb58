"""The Triton kernel for rows in groups, against the plain twin."""

import pytest
import torch

triton = pytest.importorskip("triton")

from engine.kernels.row_groups import RowGroups, grouped_twin  # noqa: E402
from engine.kernels.triton_kernels.grouped_product import grouped_product  # noqa: E402

if not torch.cuda.is_available() and not triton.knobs.runtime.interpret:
    pytest.skip("neither a GPU nor the interpreter is here", allow_module_level=True)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("tokens", "taken", "groups", "sizes"),
    [(5, 2, 4, (40, 72)), (1, 3, 8, (64, 16)), (70, 2, 3, (24, 100))],
)
def test_rows_are_multiplied_with_the_weights_of_their_groups(
    tokens: int, taken: int, groups: int, sizes: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    chosen = torch.randint(0, groups - 1, (tokens, taken), generator=generator).to(DEVICE)
    x = torch.randn(tokens, sizes[1], generator=generator).to(DEVICE)
    weights = torch.randn(groups, *sizes, generator=generator).to(DEVICE)
    weights[-1] = float("nan")  # nobody's
    found = RowGroups.of(chosen, groups)
    rows = found.order // taken
    out = grouped_product(x, rows, weights, found)
    assert torch.allclose(out, grouped_twin(x, rows, weights, found), rtol=1e-4, atol=1e-3)
