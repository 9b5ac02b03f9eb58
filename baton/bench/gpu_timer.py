"""Times work on a CUDA device, and measures the device's ceilings beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from baton.bench.row import NoDeviceError

WARM_UPS = 3
HEAD_START_CYCLES = 40_000_000  # the host queues all launches while the device sleeps


def cuda_device() -> torch.device:
    """The CUDA device in use. Raises NoDeviceError when the host has none."""
    if not torch.cuda.is_available():
        raise NoDeviceError("this bench needs an NVIDIA GPU that torch can use")
    return torch.device("cuda", torch.cuda.current_device())


def median_ms(calls: Sequence[Callable[[], object]], repeats: int) -> float:
    """Median milliseconds of one call, taken in turn so that inputs do not stay in the cache."""
    for index in range(max(WARM_UPS, len(calls))):
        calls[index % len(calls)]()
    torch.cuda.synchronize()
    torch.cuda._sleep(HEAD_START_CYCLES)  # type: ignore[no-untyped-call]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for index in range(repeats):
        calls[index % len(calls)]()
        marks[index + 1].record()
    torch.cuda.synchronize()
    return float(median(first.elapsed_time(second) for first, second in pairwise(marks)))


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reaches on the plainest work, in this process."""

    copy_bytes_per_s: float  # bytes read plus bytes written
    gemm_flops: float  # bf16, 8192^3, random data

    @classmethod
    def measure(cls, device: torch.device, repeats: int) -> "Ceilings":
        return cls(_copy_bytes_per_s(device, repeats), _gemm_flops(device, repeats))


def _copy_bytes_per_s(device: torch.device, repeats: int) -> float:
    source = torch.empty(1 << 30, dtype=torch.int32, device=device).random_()
    target = torch.empty_like(source)
    ms = median_ms([lambda: target.copy_(source)], repeats)
    return 2 * source.numel() * source.itemsize / ms * 1e3


def _gemm_flops(device: torch.device, repeats: int) -> float:
    a, b = random_bf16(device, 8192, 8192), random_bf16(device, 8192, 8192)
    return 2 * 8192**3 / median_ms([lambda: a @ b], repeats) * 1e3


def random_bf16(device: torch.device, *shape: int) -> Tensor:
    """Normal values; never zeros, on which kernels run faster than on data."""
    return torch.randn(shape, device=device, dtype=torch.bfloat16)
