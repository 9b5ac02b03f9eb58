"""Tiny random models of every architecture against transformers, over a paged cache in fp32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from greedy_reference import greedy_answer
from tiny_shapes import EXPERTS, LATENT, PARTIAL, TINY
from torch import Tensor

from engine.models import BatchInput, Model, ModelConfig
from engine.weights import load

BLOCK = 16
SHAPE = {**TINY, "num_hidden_layers": 3}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

LONGROPE = {
    **PARTIAL,
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5],
    "long_factor": [1.5, 2.0, 3.0, 5.0, 8.0, 12.0],
}
GEMMA = {
    "head_dim": 16,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
DEEPSEEK = {**LATENT, "n_shared_experts": 2}
GROUPS = {"n_group": 4, "topk_group": 2}
SHARP_YARN = {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}


def make_config(kind: str, **changes: object) -> transformers.PreTrainedConfig:
    return getattr(transformers, f"{kind}Config")(**{**SHAPE, **changes})


CONFIGS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "llama": lambda: make_config("Llama"),
    "llama-bias": lambda: make_config("Llama", attention_bias=True, mlp_bias=True),
    "llama3-rope": lambda: make_config("Llama", rope_parameters=LLAMA3, num_key_value_heads=1),
    "llama-yarn": lambda: make_config("Llama", rope_parameters=YARN),
    "llama-linear": lambda: make_config("Llama", rope_parameters=LINEAR, tie_word_embeddings=True),
    "mistral-window": lambda: make_config("Mistral", sliding_window=40, head_dim=32),
    "mistral": lambda: make_config("Mistral", sliding_window=None, num_key_value_heads=4),
    "qwen2": lambda: make_config("Qwen2", tie_word_embeddings=True),
    "qwen2-window": lambda: make_config(
        "Qwen2", use_sliding_window=True, sliding_window=24, max_window_layers=1
    ),
    "qwen3": lambda: make_config("Qwen3", head_dim=32, tie_word_embeddings=True),
    "qwen3-moe": lambda: make_config(
        "Qwen3Moe", **EXPERTS, norm_topk_prob=True, num_experts_per_tok=3, mlp_only_layers=[1]
    ),
    "qwen3-moe-window": lambda: make_config(
        "Qwen3Moe", **EXPERTS, use_sliding_window=True, sliding_window=24, decoder_sparse_step=2
    ),
    "mixtral": lambda: make_config("Mixtral", num_local_experts=4),
    "mixtral-window": lambda: make_config("Mixtral", num_local_experts=4, sliding_window=40),
    "phi3": lambda: make_config("Phi3", sliding_window=None),
    "phi3-partial": lambda: make_config("Phi3", rope_parameters=PARTIAL, sliding_window=40),
    "phi3-short": lambda: make_config("Phi3", rope_parameters=LONGROPE),
    "phi3-long": lambda: make_config(
        "Phi3",
        rope_parameters={
            **LONGROPE,
            "original_max_position_embeddings": 1,
            "attention_factor": 1.2,
        },
        tie_word_embeddings=True,
    ),
    "gemma3": lambda: make_config("Gemma3Text", **GEMMA, query_pre_attn_scalar=16),
    "gemma3-scaled": lambda: make_config(
        "Gemma3Text",
        **GEMMA,
        query_pre_attn_scalar=24,
        rope_parameters={
            "full_attention": {**LINEAR, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        },
    ),
    "deepseek-v2": lambda: make_config(
        "DeepseekV2",
        **DEEPSEEK,
        **GROUPS,
        topk_method="group_limited_greedy",
        routed_scaling_factor=1.5,
        rope_parameters=SHARP_YARN,
    ),
    "deepseek-v2-lite": lambda: make_config(
        "DeepseekV2", **{**DEEPSEEK, "q_lora_rank": None}, attention_bias=True
    ),
    "deepseek-v3": lambda: make_config(
        "DeepseekV3", **DEEPSEEK, **GROUPS, rope_parameters=SHARP_YARN
    ),
    "deepseek-v3-apart": lambda: make_config(
        "DeepseekV3",
        **DEEPSEEK,
        n_group=1,
        topk_group=1,
        norm_topk_prob=False,
        rope_interleave=False,
        attention_bias=True,
    ),
    "qwen3-wide": lambda: make_config("Qwen3", head_dim=128, num_attention_heads=6),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """The same weights in transformers and here."""

    reference: transformers.PreTrainedModel
    model: Model

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        return greedy_answer(self.reference, prompt, num_tokens)

    @torch.inference_mode()
    def logits(self, prompt: list[int]) -> Tensor:
        return self.reference(torch.tensor([prompt])).logits[0]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    torch.manual_seed(7)
    directory = tmp_path_factory.mktemp(request.param)
    config = CONFIGS[request.param]()
    reference = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, weight in reference.named_parameters():
        if name.endswith(("norm.weight", ".bias")):
            torch.nn.init.normal_(weight, mean=float("bias" not in name), std=0.2)
    for name, values in reference.named_buffers():
        if name.endswith("e_score_correction_bias"):
            torch.nn.init.normal_(values, std=0.3)
    reference.save_pretrained(directory)
    model = load(directory, ModelConfig.from_directory(directory), torch.float32)
    return Pair(reference, model)


class Paged:
    """A cache of scattered blocks and the tables of the sequences in it."""

    def __init__(self, model: Model, num_blocks: int = 128) -> None:
        self.model = model
        self.kv = torch.full(model.config.kv_shape(num_blocks), float("nan"))
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(3))
        self.free = order.tolist()
        self.tables: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    def step(self, chunks: dict[int, Sequence[int]], rows: list[int] | None = None) -> Tensor:
        """Feed the next tokens of some sequences; logits of the last row of each, or of `rows`."""
        tokens, positions, slots, starts = [], [], [], [0]
        for sequence, chunk in chunks.items():
            table = self.tables.setdefault(sequence, [])
            for token in chunk:
                position = self.lengths.get(sequence, 0)
                if position == len(table) * BLOCK:
                    table.append(self.free.pop())
                tokens.append(token)
                positions.append(position)
                slots.append(table[position // BLOCK] * BLOCK + position % BLOCK)
                self.lengths[sequence] = position + 1
            starts.append(len(tokens))
        width = max(len(self.tables[s]) for s in chunks) + 1
        tables = [self.tables[s] + [-1] * (width - len(self.tables[s])) for s in chunks]
        batch = BatchInput(
            token_ids=torch.tensor(tokens),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            block_tables=torch.tensor(tables, dtype=torch.int32),
            query_start=torch.tensor(starts, dtype=torch.int32),
            context_len=torch.tensor([self.lengths[s] for s in chunks], dtype=torch.int32),
            logit_rows=torch.tensor(
                [s - 1 for s in starts[1:]] if rows is None else rows, dtype=torch.int64
            ),
        )
        return self.model.forward(batch, self.kv)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(3, SHAPE["vocab_size"], (length,), generator=generator).tolist()


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.parametrize("chunk", [7, 16, 64, 300])
def test_chunked_prefill_gives_the_logits_of_transformers(pair: Pair, chunk: int) -> None:
    prompt = prompt_of(150)
    cache = Paged(pair.model)
    rows = []
    for start in range(0, len(prompt), chunk):
        part = prompt[start : start + chunk]
        rows.append(cache.step({0: part}, list(range(len(part)))))
    assert close(torch.cat(rows), pair.logits(prompt))


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 100, 290])
def test_greedy_tokens_equal_those_of_transformers(pair: Pair, length: int) -> None:
    prompt = prompt_of(length)
    cache = Paged(pair.model)
    tokens = []
    for start in range(0, length, 48):
        logits = cache.step({0: prompt[start : start + 48]})
    for _ in range(12):
        tokens.append(int(logits[-1].argmax()))
        logits = cache.step({0: tokens[-1:]})
    assert tokens == pair.greedy(prompt, 12)


def test_prefill_chunks_and_decodes_share_one_batch(pair: Pair) -> None:
    prompts = {s: prompt_of(n, s) for s, n in enumerate((5, 70, 1, 130, 16))}
    fed = dict.fromkeys(prompts, 0)
    out: dict[int, list[int]] = {s: [] for s in prompts}
    cache = Paged(pair.model)
    for step in range(20):
        chunks: dict[int, Sequence[int]] = {}
        for sequence, prompt in prompts.items():
            if fed[sequence] < len(prompt):
                size = 9 + 11 * ((sequence + step) % 3)
                chunks[sequence] = prompt[fed[sequence] : fed[sequence] + size]
                fed[sequence] += len(chunks[sequence])
            elif len(out[sequence]) < 8:
                chunks[sequence] = out[sequence][-1:]
        if not chunks:
            break
        for sequence, logits in zip(chunks, cache.step(chunks), strict=True):
            if fed[sequence] == len(prompts[sequence]):
                out[sequence].append(int(logits.argmax()))
    for sequence, prompt in prompts.items():
        assert out[sequence] == pair.greedy(prompt, len(out[sequence]))


def test_a_step_reports_each_finished_layer_and_may_want_no_logits(pair: Pair) -> None:
    cache = Paged(pair.model)
    assert cache.step({0: prompt_of(20)}, rows=[]).shape == (0, SHAPE["vocab_size"])
    finished: list[int] = []
    batch = BatchInput(
        token_ids=torch.tensor([5]),
        positions=torch.tensor([0]),
        slots=torch.tensor([0]),
        block_tables=torch.tensor([[0]], dtype=torch.int32),
        query_start=torch.tensor([0, 1], dtype=torch.int32),
        context_len=torch.tensor([1], dtype=torch.int32),
        logit_rows=torch.tensor([0]),
    )
    pair.model.forward(batch, cache.kv, finished.append)
    assert finished == [1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 16 * 128}, {"slots": -1}, {"positions": 512}, {"table": 128}, {"context": 33}],
)
def test_an_index_outside_the_cache_is_refused(pair: Pair, wrong: dict[str, int]) -> None:
    batch = BatchInput(
        token_ids=torch.tensor([5]),
        positions=torch.tensor([wrong.get("positions", 0)]),
        slots=torch.tensor([wrong.get("slots", 0)]),
        block_tables=torch.tensor([[wrong.get("table", 0), -1]], dtype=torch.int32),
        query_start=torch.tensor([0, 1], dtype=torch.int32),
        context_len=torch.tensor([wrong.get("context", 1)], dtype=torch.int32),
        logit_rows=torch.tensor([0]),
    )
    with pytest.raises(AssertionError):
        pair.model.forward(batch, Paged(pair.model).kv)


def test_a_directory_given_as_text_is_read(tmp_path: Path) -> None:
    make_config("Qwen3").save_pretrained(tmp_path)
    with pytest.raises(Exception, match="architecture"):
        ModelConfig.from_directory(str(tmp_path))
