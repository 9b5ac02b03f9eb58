"""Blocks that leave a GPU for pinned memory and come back; tools/gpu_checks.py runs it."""

import pytest
import torch

pytest.importorskip("triton")

from engine.kernels.choose import block_copies
from engine.staged_host_memory import StagedHostMemory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_blocks_go_out_and_come_back_byte_for_byte(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    kv = torch.randn(4, 100, 2, 2, 16, 64, device=device).to(dtype)
    pool = kv.view(torch.uint8)
    before = pool.clone()
    memory = StagedHostMemory(kv, 80, block_copies(device))
    memory.save({slot: slot + 3 for slot in range(80)})
    pool[:, 3:83] = 255
    memory.load({slot + 3: slot for slot in reversed(range(80))})
    assert torch.equal(pool, before)
    torch.cuda.synchronize()
    assert memory.block_s > 0
    memory.close()
    memory.close()


def test_a_slot_that_is_written_again_gives_its_last_bytes() -> None:
    """Saves, loads and what is computed between them keep their order without a wait."""
    device = torch.device("cuda")
    kv = torch.zeros(8, 64, 2, 8, 16, 128, device=device, dtype=torch.bfloat16)
    memory = StagedHostMemory(kv, 16, block_copies(device))
    for turn in range(20):
        kv[:, :16] = turn
        memory.save({slot: slot for slot in range(16)})
        kv[:, :16] = -1
        memory.load({32 + slot: slot for slot in range(16)})
        assert bool((kv[:, 32:48] == turn).all()) and bool((kv[:, :16] == -1).all())
    memory.close()


def test_what_a_block_takes_is_measured_on_the_copy_stream() -> None:
    """Blocks of 2 MiB, as Llama-3.1-8B has them in bf16; the rate is printed."""
    device = torch.device("cuda")
    kv = torch.zeros(32, 512, 2, 8, 16, 128, device=device, dtype=torch.bfloat16)
    memory = StagedHostMemory(kv, 256, block_copies(device))
    for _ in range(3):
        memory.save({slot: slot for slot in range(256)})
        memory.load({256 + slot: slot for slot in range(256)})
    torch.cuda.synchronize()
    assert memory.block_s > 0
    print(f"host tier: {2 / 1024 / memory.block_s:.1f} GiB/s")
    memory.close()
