"""Makes the scripts of tools/demo_model importable and loads the bundled model once."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
MODEL_DIR = ROOT / "baton" / "demo_model"
sys.path.insert(0, str(ROOT / "tools" / "demo_model"))


@pytest.fixture(scope="session")
def demo_model():
    """The bundled model through transformers, in fp32 on the CPU, answering greedily."""
    from evaluate import Model  # heavy: transformers

    return Model(MODEL_DIR, "cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """One thread computes: the model is so small that threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
