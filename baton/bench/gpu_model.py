"""Prefill and decode of whole models with random weights on a CUDA device, beside their floors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baton.bench.gpu_timer import Ceilings, cuda_device, median_ms
from baton.bench.paged_batch import BLOCK, paged_batch
from baton.bench.row import Row
from engine.config import ModelConfig
from engine.decode_graphs import DecodeGraphs
from engine.kernels.fp8_linear import multiplies_fp8
from engine.models import Model, build_model
from engine.rope_config import RopeConfig

BF16 = torch.bfloat16


def shape(layers: int, hidden: int, heads: int, inner: int, vocab: int, tied: bool) -> ModelConfig:
    """A model with 8 kv heads of 128; tied marks Qwen3, which normalises queries and keys."""
    return ModelConfig(
        architecture="Qwen3ForCausalLM" if tied else "LlamaForCausalLM",
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=inner,
        vocab_size=vocab,
        rope=RopeConfig(theta=500000.0),
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        qk_norm=tied,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        layer_windows=(None,) * layers,
        max_position_embeddings=32768,
        dtype=BF16,
    )


LLAMA_8B = shape(32, 4096, 32, 14336, 128256, tied=False)
QWEN3_06B = shape(28, 1024, 16, 3072, 151936, tied=True)


@dataclass(frozen=True, slots=True)
class DeviceTensors:
    """Random weights drawn where they are used."""

    device: torch.device

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device=self.device, dtype=BF16).normal_(0, 0.02)


def layer_parameters(config: ModelConfig) -> int:
    """Weights of the linear layers, without the head's."""
    attention = config.hidden_size * (2 * config.q_size + 2 * config.kv_size)
    return config.num_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def prefill_floor_ms(config: ModelConfig, tokens: int, ceilings: Ceilings) -> float:
    """Time of the products and of the attention at the rate of a large bf16 product."""
    products = 2 * layer_parameters(config) * tokens
    attention = config.num_layers * 2 * config.q_size * tokens * (tokens + 1)
    return (products + attention) / ceilings.gemm_flops * 1e3


def decode_floor_ms(
    config: ModelConfig, batch: int, context: int, ceilings: Ceilings, in_fp8: bool = False
) -> float:
    """Time to read all weights once and each sequence's keys and values, at copy bandwidth."""
    of_layers = layer_parameters(config) * (1 if in_fp8 else 2)
    weights = of_layers + 2 * config.vocab_size * config.hidden_size
    cache = batch * context * config.kv_bytes_per_token(BF16)
    return (weights + cache) / ceilings.copy_bytes_per_s * 1e3


def prefill(name: str, model: Model, tokens: int, ceilings: Ceilings, repeats: int) -> Row:
    kv = random_cache(model, tokens)
    batch = paged_batch([(tokens, tokens)], model.device)
    ms = median_ms([lambda: model.forward(batch, kv)], repeats)
    floor = prefill_floor_ms(model.config, tokens, ceilings)
    return Row(f"{name}.prefill.{tokens}", ms, "ms", "roofline", floor, floor / ms)


def decode(
    name: str,
    model: Model,
    sequences: int,
    context: int,
    ceilings: Ceilings,
    repeats: int,
    in_fp8: bool = False,
) -> list[Row]:
    """A step replayed from a CUDA graph, and the same step launched kernel by kernel."""
    kv = random_cache(model, sequences * context)
    batch = paged_batch([(1, context)] * sequences, model.device)
    graphs = DecodeGraphs(model, kv, [sequences], batch.block_tables.shape[1])
    floor = decode_floor_ms(model.config, sequences, context, ceilings, in_fp8)
    rows = []
    for kind, call in (
        ("graph", lambda: graphs.forward(batch)),
        ("launched", lambda: model.forward(batch, kv)),
    ):
        ms = median_ms([call], repeats)
        label = f"{name}.decode_{kind}.{sequences}x{context}"
        rows.append(Row(label, ms, "ms", "bytes / copy bandwidth", floor, floor / ms))
    return rows


def in_fp8(device: torch.device, ceilings: Ceilings, repeats: int) -> list[Row]:
    """Llama-8B with the weights of its layers in fp8; floors of prefill are those of bf16."""
    tensors = DeviceTensors(device)
    model = build_model(LLAMA_8B, tensors, BF16, device, in_fp8=lambda module: 0.0)
    rows = [prefill("llama_8b_fp8", model, 8192, ceilings, repeats)]
    return rows + decode("llama_8b_fp8", model, 1, 4096, ceilings, repeats, in_fp8=True)


def random_cache(model: Model, num_tokens: int) -> Tensor:
    shape = model.config.kv_shape(num_tokens // BLOCK)
    return torch.empty(shape, device=model.device, dtype=BF16).normal_()


def run(repeats: int) -> list[Row]:
    """All rows: medians of `repeats` steps. Raises RuntimeError without a GPU."""
    device = cuda_device()
    ceilings = Ceilings.measure(device, repeats)
    model = build_model(LLAMA_8B, DeviceTensors(device), BF16, device)
    rows = [prefill("llama_8b", model, 8192, ceilings, repeats)]
    rows += decode("llama_8b", model, 1, 4096, ceilings, repeats)
    rows += decode("llama_8b", model, 64, 4096, ceilings, repeats)
    del model
    torch.cuda.empty_cache()
    if multiplies_fp8(device):
        rows += in_fp8(device, ceilings, repeats)
        torch.cuda.empty_cache()
    model = build_model(QWEN3_06B, DeviceTensors(device), BF16, device)
    return rows + decode("qwen3_06b", model, 1, 512, ceilings, repeats)
