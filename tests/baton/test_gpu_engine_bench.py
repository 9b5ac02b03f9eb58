"""The GPU bench of the whole engine, on a small model on the CPU."""

import pytest
import torch

from baton.bench.gpu_engine import (
    Decoding,
    TensorsOf,
    beside_transformers,
    cpu_share,
    generated,
    twin,
)
from baton.bench.gpu_model import shape
from engine.models import build_model

CPU = torch.device("cpu")
SMALL = {
    "LlamaForCausalLM": shape(2, 256, 16, 128, 320, tied=False),
    "Qwen3ForCausalLM": shape(2, 256, 16, 128, 320, tied=True),
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_engine_gives_the_tokens_of_the_model_that_it_is_measured_beside(name: str) -> None:
    torch.manual_seed(4)
    peer = twin(SMALL[name], CPU, torch.float32)
    model = build_model(SMALL[name], TensorsOf(peer.state_dict()), torch.float32, CPU)
    prompts = torch.randint(1, 320, (3, 20)).tolist()
    decoding = Decoding.begun(model, prompts, 9)
    found = torch.tensor([decoding.step() for _ in range(8)]).T
    assert torch.equal(found, generated(peer, prompts, 9)[:, 1:])
    decoding.engine.check_integrity()


def test_the_rows_of_the_engine_have_figures() -> None:
    config = SMALL["Qwen3ForCausalLM"]
    peer = twin(config, CPU, torch.float32)
    model = build_model(config, TensorsOf(peer.state_dict()), torch.float32, CPU)
    share = cpu_share("small", model, 8, 3)
    assert share.name == "small.cpu_share.8" and 0 < share.value < 100
    row = beside_transformers("small", peer, model, 2, 8, 1)
    assert row.name == "small.generate.2x8" and row.value > 0 and row.baseline_value > 0
