"""Building the CPU operators: once for all processes, in a private folder, with clear failures."""

import logging
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from engine.kernels import choose, cpu_build, kernel_set
from engine.kernels.cpu_build import KernelBuildError, load_library
from engine.kernels.reference import ReferenceKernels

SMALL = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def small_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source that compiles at once, in place of the operators."""
    source = tmp_path / "source" / "cpu_ops.cpp"
    source.parent.mkdir()
    source.write_text(SMALL)
    monkeypatch.setattr(cpu_build, "SOURCE", source)
    return source


def call(cache: Path) -> int:
    return int(load_library(cache).answer())


def test_starts_at_the_same_time_build_once(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    compiled: list[object] = []
    run = cpu_build._run
    monkeypatch.setattr(cpu_build, "_run", lambda command: (compiled.append(command), run(command)))
    with ThreadPoolExecutor(
        4
    ) as pool:  # the lock is the open file's, so threads count as processes
        assert list(pool.map(call, [cache] * 4)) == [42] * 4
    assert len(list(cache.glob("*.so"))) == 1 and len(compiled) == 2


def test_a_changed_source_is_built_anew(small_source: Path, tmp_path: Path) -> None:
    assert call(tmp_path / "cache") == 42
    small_source.write_text(SMALL.replace("42", "43"))
    assert call(tmp_path / "cache") == 43


def test_a_built_library_serves_without_a_compiler(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(tmp_path / "cache")
    monkeypatch.setenv("PATH", "")
    assert call(tmp_path / "cache") == 42
    with pytest.raises(KernelBuildError, match="no compiler"):
        load_library(tmp_path / "another")


def test_a_failing_compiler_is_quoted(small_source: Path, tmp_path: Path) -> None:
    small_source.write_text("this is not C++")
    with pytest.raises(KernelBuildError, match="error: expected"):
        load_library(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.so"))


def test_a_library_cut_short_is_an_error(small_source: Path, tmp_path: Path) -> None:
    call(tmp_path / "cache")
    small_source.write_text(SMALL.replace("42", "44"))
    library = tmp_path / "cache" / f"cpu_ops-{cpu_build._key()}.so"
    library.write_bytes(b"\x7fELF")
    with pytest.raises(KernelBuildError, match="cannot be used"):
        load_library(tmp_path / "cache")


def test_a_folder_that_others_may_write_to_is_refused(small_source: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(KernelBuildError, match="no private folder"):
        load_library(shared)


def test_the_operators_use_the_openmp_library_of_torch() -> None:
    library = load_library()
    needed = subprocess.run(
        ["objdump", "-p", library._name], capture_output=True, text=True, check=True
    ).stdout
    runtime = cpu_build._openmp_runtime()
    assert runtime is None or f"NEEDED               {runtime.name}" in needed


def test_where_nothing_can_be_built_plain_torch_serves_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> ReferenceKernels:
        raise KernelBuildError("no C++ compiler")

    monkeypatch.setitem(choose.KERNEL_SETS, "cpu", fail)
    with caplog.at_level(logging.WARNING):
        assert isinstance(kernel_set("auto", torch.device("cpu")), ReferenceKernels)
    assert "no C++ compiler" in caplog.text
    with pytest.raises(KernelBuildError):
        kernel_set("cpu", torch.device("cpu"))
