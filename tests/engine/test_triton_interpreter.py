"""The tests of the Triton kernels, in a process where Triton interprets them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
HERE = Path(__file__).parent
FILES = [  # those of a row share a process
    ("test_triton_kernels.py",),
    ("test_triton_model.py",),
    ("test_triton_drawing.py",),
    (
        "test_triton_fp8.py",
        "test_triton_grouped.py",
        "test_triton_int4.py",
        "test_triton_latent.py",
    ),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run compiled here")
@pytest.mark.parametrize("files", FILES, ids="-".join)
def test_the_kernels_pass_their_tests_in_the_interpreter(files: tuple[str, ...]) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [HERE / file for file in files]
    result = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
