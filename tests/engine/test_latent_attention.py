"""Attention over latents in plain torch against float64, in both of its forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels import latent as latent_module
from engine.kernels.latent import LatentHeads, attend_absorbed, attend_expanded

HEADS, PLAIN, ROPE, VALUE, RANK = 3, 8, 4, 6, 16


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def heads_of(seed: int = 0) -> LatentHeads:
    return LatentHeads(randn(HEADS, PLAIN, RANK, seed=seed), randn(HEADS, VALUE, RANK), 0.3)


def in_float64(q: Tensor, heads: LatentHeads, cached: Tensor) -> Tensor:
    """Keys and values of every head made, every token on its own."""
    wide = cached.double()
    plain = torch.einsum("kr,hdr->hkd", wide[:, :RANK], heads.key_up.double())
    keys = torch.cat((plain, wide[:, RANK:].expand(HEADS, -1, -1)), dim=-1)
    values = torch.einsum("kr,hvr->hkv", wide[:, :RANK], heads.value_up.double())
    rows = []
    for index, row in enumerate(q.double()):
        seen = len(cached) - len(q) + index + 1
        scores = torch.einsum("hd,hkd->hk", row, keys[:, :seen]) * heads.scale
        rows.append(torch.einsum("hk,hkv->hv", scores.softmax(-1), values[:, :seen]))
    return torch.stack(rows)


@settings(max_examples=40, derandomize=True)
@given(num_queries=st.integers(1, 40), before=st.integers(0, 90), seed=st.integers(0, 99))
@pytest.mark.parametrize("tile_bytes", [1, 20_000, 1 << 25])
def test_both_forms_equal_float64_however_the_keys_are_cut(
    tile_bytes: int, num_queries: int, before: int, seed: int
) -> None:
    heads = heads_of(seed)
    q = randn(num_queries, HEADS, PLAIN + ROPE, seed=seed)
    cached = randn(num_queries + before, RANK + ROPE, seed=seed)
    expected = in_float64(q, heads, cached)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_module, "TILE_BYTES", tile_bytes)
        expanded = attend_expanded(q, heads, cached)
        absorbed = heads.lift(attend_absorbed(heads.absorb(q), heads, cached))
    assert torch.allclose(expanded.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(absorbed.double(), expected, rtol=1e-4, atol=1e-4)


def test_few_queries_are_absorbed_and_many_are_not() -> None:
    published = LatentHeads(torch.empty(16, 128, 512), torch.empty(16, 128, 512), 1.0)
    assert published.is_absorbed(1) and published.is_absorbed(100)
    assert not published.is_absorbed(300)
