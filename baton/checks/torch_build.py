"""torch, its device, and whether the CPU operators compile."""

import shutil
from collections.abc import Iterator

import torch

from baton.checks.check import Check, State
from engine.kernels.cpu_build import KernelBuildError, load_library


def check_torch() -> Iterator[Check]:
    """Compiles the operators where that has not been done: tens of seconds the first time."""
    threads = torch.get_num_threads()
    yield Check("torch", State.OK, f"{torch.__version__}, {threads} threads")
    yield _gpu()
    compiler = shutil.which("g++") or shutil.which("c++")
    state = State.OK if compiler else State.WARNING
    yield Check("compiler", state, compiler or "no g++ or c++ on the PATH")
    yield _operators()


def _gpu() -> Check:
    if not torch.cuda.is_available():
        return Check("gpu", State.ABSENT, "no CUDA device; serving on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("gpu", State.OK, ", ".join(names))


def _operators() -> Check:
    try:
        load_library()
    except KernelBuildError as error:
        first_line = str(error).splitlines()[0]
        return Check("CPU operators", State.WARNING, f"plain torch instead: {first_line}")
    return Check("CPU operators", State.OK, "compiled")
