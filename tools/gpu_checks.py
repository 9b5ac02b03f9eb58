"""Every check and figure that needs an NVIDIA GPU, in one run; a short table comes last.

    python tools/gpu_checks.py [--json FILE] [--repeats N] [--only-tests | --only-bench]

It needs torch, triton, pytest, pytest-xdist, hypothesis, transformers, safetensors and msgspec, for
the direct path structlog, xxhash and psutil too, for the whole engine's rows xxhash and
llguidance, and no installed Baton. The status is 1 when
something failed; figures follow all the same unless it was a test of the engine.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = sorted(str(path) for path in (ROOT / "tests/engine").glob("test_triton_*.py"))
DIRECT_TESTS = ["tests/kv_transfer/test_kv_cuda_processes.py", "tests/worker/test_direct_path.py"]
# The GPU machine may lack what the project's own configuration asks for.
PYTEST = ["-c", "/dev/null", "--import-mode=importlib", "-p", "no:cacheprovider"]


def call(*arguments: str) -> int:
    """Run a module of Python in the repository's root; gives its status."""
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT).returncode


def run_direct_tests() -> int:
    """Between two processes; how many of the runs failed."""
    return sum(
        bool(call("pytest", "-q", "-m", "gpu", f"--confcutdir={Path(test).parent}", *PYTEST, test))
        for test in DIRECT_TESTS
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="gpu_rows.json")
    parser.add_argument("--repeats", default="15")
    parser.add_argument("--workers", default="8", help="test processes; needs pytest-xdist")
    parser.add_argument("--only-tests", action="store_true")
    parser.add_argument("--only-bench", action="store_true")
    arguments = parser.parse_args()
    failed = 0
    if not arguments.only_bench:
        engine = ["--noconftest", *PYTEST, *TESTS]
        if call("pytest", "-q", "-x", "-n", arguments.workers, *engine):
            sys.exit(1)
        failed = run_direct_tests()
    if not arguments.only_tests:
        failed += call("baton.bench.gpu", "--repeats", arguments.repeats, "--json", arguments.json)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
