"""Workers whose blocks differ in size answer as the reference library does."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from wire.messages import LegFinished, LegPublished, LegTransferred, Role

PROMPT = tuple(at * 37 % 127 + 1 for at in range(100))
NUM_TOKENS = 16


def finished(worker: Any, leg_id: int) -> bool:
    return any(isinstance(event, LegFinished) for event in worker.of(leg_id))


def transfer(drive: Any, start_leg: Any, prefill: Any, decode: Any, leg_id: int) -> LegTransferred:
    prefill.apply(start_leg(leg_id, PROMPT, NUM_TOKENS, prefill_only=True))
    handles: list[Any] = []

    def is_published() -> bool:
        handles[:] = [e.handle for e in prefill.of(leg_id) if isinstance(e, LegPublished)]
        return bool(handles)

    drive(is_published, prefill)
    decode.apply(start_leg(leg_id, PROMPT, NUM_TOKENS, handle=handles[0]))
    drive(lambda: finished(decode, leg_id), prefill, decode)
    drive(lambda: prefill.core.is_quiet and decode.core.is_quiet, prefill, decode)
    (told,) = [event for event in decode.of(leg_id) if isinstance(event, LegTransferred)]
    return told


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A random model's directory, and what the reference library answers to PROMPT."""
    torch.manual_seed(7)
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.Qwen3Config(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=3, **shape,
        tie_word_embeddings=False, initializer_range=0.4, max_position_embeddings=1024,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config).to(torch.float32).eval()
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    with torch.no_grad():
        answer = model.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return directory, answer[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize(("source_size", "reader_size"), [(32, 16), (16, 32), (16, 64), (24, 16)])
def test_a_pair_with_other_block_sizes_answers_as_the_reference_library(
    make_worker: Any,
    drive: Any,
    start_leg: Any,
    reference: tuple[Path, list[int]],
    source_size: int,
    reader_size: int,
) -> None:
    directory, answer = reference
    prefill = make_worker(Role.PREFILL, block_size=source_size, directory=directory)
    decode = make_worker(Role.DECODE, block_size=reader_size, directory=directory)
    first = transfer(drive, start_leg, prefill, decode, 1)
    assert first.failure == ""
    assert decode.tokens(1) == answer
    again = transfer(drive, start_leg, prefill, decode, 2)
    assert again.failure == ""
    assert 0 < again.num_bytes < first.num_bytes  # what decode holds is not read again
    assert decode.tokens(2) == answer
