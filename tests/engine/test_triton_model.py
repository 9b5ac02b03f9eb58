"""Tiny random models on the Triton kernels: their greedy tokens equal those of transformers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from eagle_heads import ReferenceHead, Shape
from greedy_reference import greedy_answer
from tiny_shapes import LATENT, PARTIAL, TINY
from torch import Tensor

triton = pytest.importorskip("triton")

from engine.decode_graphs import DecodeGraphs, padding_batch, refill  # noqa: E402
from engine.eagle_config import read_eagle  # noqa: E402
from engine.models import BatchInput, Model, ModelConfig  # noqa: E402
from engine.models.taps import Taps  # noqa: E402
from engine.speculation.eagle_weights import load_eagle  # noqa: E402
from engine.weights import load  # noqa: E402

INTERPRETED = bool(triton.knobs.runtime.interpret)
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")
pytestmark = pytest.mark.skipif(
    not INTERPRETED and DEVICE.type == "cpu", reason="test_triton_interpreter.py runs them"
)

BLOCK = 16
NUM_TOKENS = 3 if INTERPRETED else 12
SHAPE = {**TINY, "vocab_size": 200}
LAYERS = ["sliding_attention", "full_attention"]
KINDS: dict[str, dict[str, object]] = {
    "Llama": {"num_key_value_heads": 1},
    "Mistral": {"sliding_window": 24},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32, "num_attention_heads": 6},
    "Qwen3Moe": {"head_dim": 32, "num_experts": 8, "moe_intermediate_size": 32},
    "Mixtral": {"num_local_experts": 4},
    "Phi3": {"rope_parameters": PARTIAL},
    "DeepseekV3": {**LATENT, "n_group": 4, "topk_group": 2},
    "Gemma3Text": {"head_dim": 32, "sliding_window": 24, "layer_types": LAYERS},
}


class Feed:
    """A cache of scattered blocks, and the sequences that were fed into it."""

    def __init__(self, model: Model, num_blocks: int = 64) -> None:
        self.model = model
        self.kv = torch.full(model.config.kv_shape(num_blocks), float("nan"), device=DEVICE)
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(3))
        self.free = order.tolist()
        self.tables: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    def step(self, chunks: dict[int, Sequence[int]]) -> Tensor:
        """Feed the next tokens of some sequences; the logits of the last token of each."""
        return self.model.forward(self.batch(chunks), self.kv)

    def batch(self, chunks: dict[int, Sequence[int]]) -> BatchInput:
        """The next tokens of some sequences, with blocks for them."""
        positions, slots, starts = [], [], [0]
        for sequence, chunk in chunks.items():
            table = self.tables.setdefault(sequence, [])
            first = self.lengths.get(sequence, 0)
            for position in range(first, first + len(chunk)):
                if position == len(table) * BLOCK:
                    table.append(self.free.pop())
                positions.append(position)
                slots.append(table[position // BLOCK] * BLOCK + position % BLOCK)
            self.lengths[sequence] = first + len(chunk)
            starts.append(len(positions))
        width = max(len(self.tables[s]) for s in chunks) + 1
        tables = [self.tables[s] + [-1] * (width - len(self.tables[s])) for s in chunks]

        def tensor(values: object, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=DEVICE)

        return BatchInput(
            token_ids=tensor([t for chunk in chunks.values() for t in chunk], torch.int64),
            positions=tensor(positions, torch.int64),
            slots=tensor(slots, torch.int64),
            block_tables=tensor(tables),
            query_start=tensor(starts),
            context_len=tensor([self.lengths[s] for s in chunks]),
            logit_rows=tensor([s - 1 for s in starts[1:]], torch.int64),
        )


def tiny_model(kind: str, directory: Path) -> tuple[transformers.PreTrainedModel, Model]:
    """The same random weights in transformers and here."""
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **KINDS[kind]})
    reference = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    reference.save_pretrained(directory)
    read = ModelConfig.from_directory(directory)
    return reference, load(directory, read, torch.float32, DEVICE, kernels="triton")


@pytest.mark.parametrize(
    "kind", ["Gemma3Text", "Mistral", "Qwen3"] if INTERPRETED else sorted(KINDS)
)
def test_greedy_tokens_of_a_mixed_batch_equal_those_of_transformers(
    kind: str, tmp_path: Path
) -> None:
    reference, model = tiny_model(kind, tmp_path)
    feed = Feed(model)
    prompts = {s: torch.randint(3, 200, (n,)).tolist() for s, n in enumerate((1, 17, 60))}
    fed, out = dict.fromkeys(prompts, 0), {s: [] for s in prompts}
    while any(len(tokens) < NUM_TOKENS for tokens in out.values()):
        chunks: dict[int, Sequence[int]] = {}
        for sequence, prompt in prompts.items():
            if fed[sequence] < len(prompt):
                chunks[sequence] = prompt[fed[sequence] : fed[sequence] + 33]
                fed[sequence] += len(chunks[sequence])
            else:
                chunks[sequence] = out[sequence][-1:]
        for sequence, logits in zip(chunks, feed.step(chunks), strict=True):
            if fed[sequence] == len(prompts[sequence]):
                out[sequence].append(int(logits.argmax()))
    for sequence, prompt in prompts.items():
        assert out[sequence] == greedy_answer(reference, prompt, len(out[sequence]))


def test_the_logits_of_a_head_are_those_of_its_description(tmp_path: Path) -> None:
    """Two prompts, then a few tokens of each, with the states that transformers has."""
    reference, plain = tiny_model("Qwen3", tmp_path / "model")
    described = ReferenceHead(Shape(vocab=200, draft_vocab=90, state_layers=(0, 1, 1)))
    ids = {"eagle_aux_hidden_state_layer_ids": [0, 1, 1]}
    directory = described.save(tmp_path / "head", **ids)
    config = read_eagle(directory)
    head, feed = load_eagle(directory, config, plain, 512, kernels="triton"), Feed(plain)
    kv = torch.full(config.layer.kv_shape(64), float("nan"), device=DEVICE)
    texts = {s: torch.randint(3, 200, (n,)).tolist() for s, n in enumerate((20, 18))}
    fed = dict.fromkeys(texts, 0)
    for ends in ({0: 17, 1: 15}, {0: 19, 1: 16}):
        batch = feed.batch({s: texts[s][fed[s] : end] for s, end in ends.items()})
        states = {s: described.states(reference, texts[s][:end]) for s, end in ends.items()}
        here = torch.cat([states[s][fed[s] :] for s in ends]).to(DEVICE)
        behind = [token for s, end in ends.items() for token in texts[s][fed[s] + 1 : end + 1]]
        batch = replace(batch, token_ids=torch.tensor(behind, device=DEVICE))
        places = torch.arange(len(ends), device=DEVICE)
        found = head.logits(head.forward(head.fused(here), batch, places, kv)).cpu()
        for row, (s, end) in enumerate(ends.items()):
            wanted = described.chain(states[s], texts[s][: end + 1], 1)[0]
            assert torch.allclose(found[row][described.targets], wanted, rtol=1e-3, atol=1e-3)
        fed = dict(ends)


def decode_steps(feed: Feed) -> list[BatchInput]:
    """Two prompts fed, then one decode step of both and one of the second alone."""
    feed.step({0: list(range(3, 40)), 1: list(range(50, 70))})
    return [feed.batch({0: [5], 1: [9]}), feed.batch({1: [7]})]


def test_a_padded_decode_step_gives_the_logits_of_the_bare_one(tmp_path: Path) -> None:
    feed = Feed(tiny_model("Qwen3", tmp_path)[1])
    padded = padding_batch(4, max_blocks=8, device=DEVICE)
    for batch in decode_steps(feed):
        before = feed.kv.clone()
        expected = feed.model.forward(batch, feed.kv)
        written = feed.kv.clone()
        feed.kv.copy_(before)
        refill(padded, batch)
        logits = feed.model.forward(padded, feed.kv)
        assert torch.allclose(logits[: batch.num_sequences], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(feed.kv.isnan(), written.isnan())


@pytest.mark.skipif(DEVICE.type == "cpu", reason="a CUDA graph needs a GPU")
def test_a_replayed_decode_step_gives_the_logits_of_a_launched_one(tmp_path: Path) -> None:
    taps = Taps((0, 1, 1))
    feed = Feed(replace(tiny_model("Qwen3", tmp_path)[1], taps=taps))
    steps = decode_steps(feed)
    graphs = DecodeGraphs(feed.model, feed.kv, sizes=(1, 4), max_blocks=8)
    for batch in steps:
        expected, states = feed.model.forward(batch, feed.kv), taps.take()
        assert graphs.fits(batch)
        assert torch.allclose(graphs.forward(batch), expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(taps.take(), states, rtol=1e-4, atol=1e-5)
    assert not graphs.fits(feed.batch({0: [5, 6]}))
    assert not graphs.fits(feed.batch({s: [4] for s in range(2, 7)}))
