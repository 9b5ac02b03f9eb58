"""Where a worker's KV lies, and what becomes of a direct path that a host does not allow."""

import contextlib

import pytest
import torch
from structlog.testing import capture_logs

from engine.memory_plan import MemoryPlan
from wire.kv import KVLayout
from worker import pool
from worker.pool import Pool, open_pool

PLAN = MemoryPlan(KVLayout(3, 8, 2, 16, 8, "float32"), 0, 0, 128)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_on_a_cpu_the_fabric_reads_what_the_engine_computes_in() -> None:
    with contextlib.ExitStack() as stack:
        made = open_pool(PLAN, CPU, "host", stack)
        made.kv[2, 7, 1, 1, 15, 7] = 1.0
        assert made.path is None
        assert made.memory.num_bytes == PLAN.kv_bytes
        assert made.memory.buffer[PLAN.kv_bytes - 4 :].cast("f")[0] == 1.0


def test_a_direct_path_without_a_gpu_is_refused() -> None:
    refusal = pytest.raises(ValueError, match="direct needs a GPU; the model computes on cpu")
    with contextlib.ExitStack() as stack, refusal:
        open_pool(PLAN, CPU, "direct", stack)


def test_a_direct_path_that_cannot_be_had_is_a_mirror_and_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.ExitStack() as stack:
        mirrored = open_pool(PLAN, CPU, "host", stack)

        def host_pool(plan: MemoryPlan, device: torch.device, closing: object) -> Pool:
            assert (plan, device, closing) == (PLAN, GPU, stack)
            return mirrored

        monkeypatch.setattr(pool, "_host_pool", host_pool)
        with capture_logs() as lines:
            assert open_pool(PLAN, GPU, "direct", stack, library="libnone.so") is mirrored
    (line,) = lines
    assert (line["event"], line["wanted"], line["to"]) == ("kv path fell back", "direct", "host")
    assert "no CUDA driver" in line["reason"]


def test_a_plan_tells_of_a_mirror_only_where_there_is_one() -> None:
    mirrored = MemoryPlan(PLAN.layout, 0, 0, 128, mirror_bytes=PLAN.kv_bytes)
    assert "mirror" not in str(PLAN)
    assert str(mirrored) == f"{PLAN}, mirror in host memory 0.0 MiB"
    assert mirrored.total_bytes == PLAN.total_bytes  # of the device's memory
