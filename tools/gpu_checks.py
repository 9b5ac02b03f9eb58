"""Every check and figure that needs an NVIDIA GPU, in one run; a short table comes last.

    python tools/gpu_checks.py [--json FILE] [--repeats N] [--only-tests | --only-bench]

It needs torch, triton, pytest, pytest-xdist, hypothesis, transformers, safetensors and msgspec, and
no installed Baton.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = sorted(str(path) for path in (ROOT / "tests/engine").glob("test_triton_*.py"))
# The GPU machine may lack what the project's own configuration asks for.
PYTEST = ["-c", "/dev/null", "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider"]


def call(*arguments: str) -> None:
    """Run a module of Python in the repository's root; leave with its status when it fails."""
    status = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT).returncode
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="gpu_rows.json")
    parser.add_argument("--repeats", default="15")
    parser.add_argument("--workers", default="8", help="test processes; needs pytest-xdist")
    parser.add_argument("--only-tests", action="store_true")
    parser.add_argument("--only-bench", action="store_true")
    arguments = parser.parse_args()
    if not arguments.only_bench:
        call("pytest", "-q", "-x", "-n", arguments.workers, *PYTEST, *TESTS)
    if not arguments.only_tests:
        call("baton.bench.gpu", "--repeats", arguments.repeats, "--json", arguments.json)


if __name__ == "__main__":
    main()
