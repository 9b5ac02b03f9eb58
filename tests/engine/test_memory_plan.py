"""Blocks from a budget, and the cache over somebody else's memory."""

import mmap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.kv_cache import allocate_kv, kv_tensor
from engine.memory_plan import MIB, MemoryPlanError, plan_memory, step_workspace_bytes
from wire.kv import KVLayout


def layout_of(num_blocks: int = 0, dtype: str = "float32") -> KVLayout:
    return KVLayout(3, num_blocks, 2, 16, 8, dtype)


@given(budget=st.integers(0, 1 << 30), weights=st.integers(0, 1 << 20), total=st.booleans())
def test_a_plan_fills_the_budget_to_within_one_block(
    budget: int, weights: int, total: bool
) -> None:
    layout = layout_of()
    taken = weights if total else 0
    try:
        plan = plan_memory(layout, budget, 512, weights_bytes=weights, budget_is_total=total)
    except MemoryPlanError as error:
        assert budget < taken + layout.block_bytes
        assert str(budget) in str(error) and str(taken + layout.block_bytes) in str(error)
    else:
        assert plan.num_blocks >= 1
        assert 0 <= budget - taken - plan.kv_bytes < layout.block_bytes


def test_a_plan_reads_as_one_line_with_every_share() -> None:
    layout = layout_of()
    plan = plan_memory(
        layout, 100 * layout.block_bytes, 400, weights_bytes=30 * MIB, workspace_bytes=MIB
    )
    text = str(plan)
    assert "\n" not in text
    for part in ("weights 30 MiB", "workspace 1.0 MiB", "100 blocks of 16", "1600 tokens", "4.0"):
        assert part in text
    assert plan.total_bytes == 31 * MIB + plan.kv_bytes


def test_the_workspace_grows_with_both_the_batch_and_the_vocabulary() -> None:
    small = {"vocab_size": 100, "widest_row": 10, "max_batch_tokens": 16, "max_num_seqs": 2}
    for name in small:
        assert step_workspace_bytes(**{**small, name: 1000}) > step_workspace_bytes(**small)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_cache_is_a_view_of_shared_memory_with_contiguous_regions(dtype: str) -> None:
    layout = layout_of(5, dtype)
    with mmap.mmap(-1, layout.pool_bytes + 100) as memory:
        kv = kv_tensor(memoryview(memory), layout)
        kv[2, 3] = 1.0
        start = layout.offset_bytes(2, 3)
        region = memory[start : start + layout.region_bytes]
        assert bytes(kv[2, 3].contiguous().view(torch.uint8).flatten().tolist()) == region
        assert not any(memory[:start]) and not any(memory[start + layout.region_bytes :])
        del kv


def test_the_cache_views_a_byte_tensor_without_copying() -> None:
    layout = layout_of(4, "bfloat16")
    memory = torch.zeros(layout.pool_bytes, dtype=torch.uint8)
    kv = kv_tensor(memory, layout)
    kv.fill_(2.0)
    assert memory.view(torch.bfloat16).eq(2.0).all()
    assert kv.shape == allocate_kv(layout).shape == (3, 4, 2, 2, 16, 8)


def test_a_buffer_that_is_too_small_is_refused_with_both_sizes() -> None:
    layout = layout_of(4)
    with pytest.raises(ValueError, match=f"{layout.pool_bytes - 1} bytes.*{layout.pool_bytes}"):
        kv_tensor(bytearray(layout.pool_bytes - 1), layout)
