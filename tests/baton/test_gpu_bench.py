"""What the GPU bench computes on the host: its batches and its floors."""

from collections.abc import Callable

import pytest
import torch

from baton.bench.gpu_model import LLAMA_8B, QWEN3_06B, decode_floor_ms, prefill_floor_ms
from baton.bench.gpu_timer import Ceilings, cuda_device
from baton.bench.paged_batch import BLOCK, paged_batch
from baton.bench.row import NoDeviceError

H200 = Ceilings(copy_bytes_per_s=4.3e12, gemm_flops=790e12)


def test_the_floor_of_a_prefill_counts_products_and_attention() -> None:
    assert prefill_floor_ms(LLAMA_8B, 8192, H200) == pytest.approx(167, abs=1)


def test_the_floor_of_a_decode_step_counts_weights_and_cache() -> None:
    weights_gb, cache_gb = 15.0, 64 * 4096 * 131072 / 1e9
    expected = (weights_gb + cache_gb) / 4300 * 1e3
    assert decode_floor_ms(LLAMA_8B, 64, 4096, H200) == pytest.approx(expected, rel=0.01)
    in_fp8 = decode_floor_ms(LLAMA_8B, 64, 4096, H200, in_fp8=True)
    assert expected - in_fp8 == pytest.approx(6.98 / 4300 * 1e3, rel=0.01)
    assert decode_floor_ms(QWEN3_06B, 1, 16, H200) == pytest.approx(1.19 / 4300 * 1e3, rel=0.01)


def test_each_token_of_a_batch_has_its_slot_in_its_own_block() -> None:
    lengths = [(1, 64), (48, 96), (1, 32)]
    batch = paged_batch(lengths, torch.device("cpu"))
    starts = batch.query_start.tolist()
    assert starts == [0, 1, 49, 50]
    assert len(set(batch.slots.tolist())) == batch.num_tokens
    for sequence, (start, stop) in enumerate(zip(starts, starts[1:], strict=False)):
        for row in range(start, stop):
            block = int(batch.block_tables[sequence, int(batch.positions[row]) // BLOCK])
            assert int(batch.slots[row]) == block * BLOCK + int(batch.positions[row]) % BLOCK


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_a_host_without_a_gpu_is_told_so(
    run_in_process: Callable[..., tuple[int, str]],
) -> None:
    with pytest.raises(NoDeviceError, match="needs an NVIDIA GPU"):
        cuda_device()
    assert run_in_process("bench", "engine", "--device", "cuda")[0] == 1


def test_a_bench_that_has_no_rows_of_a_gpu_refuses_the_flag(
    run_in_process: Callable[..., tuple[int, str]],
) -> None:
    assert run_in_process("bench", "router", "--device", "cuda")[0] == 2
