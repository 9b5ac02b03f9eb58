"""Assembles a model from named tensors: fuses projections and lays them out for the device."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import HeadShape, Linear, kernel_set
from engine.layers.attention import GroupedAttention, LatentAttention
from engine.layers.decoder_layer import DecoderLayer, Embedding
from engine.layers.mlp import DenseMlp, SparseMlp
from engine.layers.rope import pair_order, rope_table
from engine.layers.routing import GroupRouter, Router, SoftmaxRouter
from engine.models.latent import latent_attention
from engine.models.model import Model
from engine.models.parts import Fp8Steps, PartBuilder, TensorSource
from engine.moe_config import MoeConfig

DENSE = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class _Builder(PartBuilder):
    def heads(self, prefix: str) -> HeadShape:
        config, dim = self.config, self.config.head_dim
        return HeadShape(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=dim,
            rms_norm_eps=config.rms_norm_eps,
            q_norm=self.q_norm(prefix) if config.qk_norm else None,
            k_norm=self.norm(f"{prefix}.k_norm.weight", dim) if config.qk_norm else None,
        )

    def q_norm(self, prefix: str) -> Tensor:
        """With what Gemma's query scale differs from the head size's, which the kernels apply."""
        factors = self.norm(f"{prefix}.q_norm.weight", self.config.head_dim)
        gemma = self.config.gemma
        if gemma is None or gemma.query_scale == self.config.head_dim:
            return factors
        return factors * math.sqrt(self.config.head_dim / gemma.query_scale)

    def layer(self, index: int) -> DecoderLayer:
        config, prefix = self.config, f"model.layers.{index}"
        attention, hidden = f"{prefix}.self_attn", config.hidden_size

        def norm(name: str) -> Tensor:
            return self.norm(f"{prefix}.{name}_layernorm.weight", hidden)

        gemma = config.gemma is not None
        return DecoderLayer(
            kernels=self.kernels,
            attention=self.attention(index, attention),
            rms_norm_eps=config.rms_norm_eps,
            input_norm=norm("input"),
            out=self.linear(attention, ("o_proj",), (hidden,), config.out_size, config.o_bias),
            post_norm=norm("pre_feedforward" if gemma else "post_attention"),
            mlp=self.mlp(index, prefix),
            after_attention=norm("post_attention") if gemma else None,
            after_mlp=norm("post_feedforward") if gemma else None,
        )

    def attention(self, index: int, prefix: str) -> GroupedAttention | LatentAttention:
        if self.config.latent is not None:
            return latent_attention(self, self.config.latent, prefix)
        return GroupedAttention(
            kernels=self.kernels,
            heads=self.heads(prefix),
            window=self.config.layer_windows[index],
            qkv=self.qkv(prefix),
        )

    def qkv(self, prefix: str) -> Linear:
        config = self.config
        sizes: tuple[int, ...] = (config.q_size, config.kv_size, config.kv_size)
        parts: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
        if config.fused_projections:
            sizes, parts = (sum(sizes),), ("qkv_proj",)
        bias = config.qkv_bias
        return self.linear(prefix, parts, sizes, config.hidden_size, bias, self.qkv_rows())

    def qkv_rows(self) -> Tensor | None:
        """The order of the fused projection's rows that brings the halves of each rotating pair
        half a head apart; None where they are so stored."""
        config = self.config
        if config.rope.partial == 1.0:
            return None
        firsts = torch.arange(0, config.q_size + config.kv_size, config.head_dim).unsqueeze(1)
        rotating = (firsts + pair_order(config.rope, config.head_dim)).flatten()
        values = torch.arange(config.kv_size) + config.q_size + config.kv_size
        return torch.cat((rotating, values))

    def mlp(self, index: int, prefix: str) -> DenseMlp | SparseMlp:
        moe = self.config.experts_of(index)
        if moe is None:
            return self.dense(f"{prefix}.mlp", DENSE, self.config.intermediate_size)
        block = f"{prefix}.{moe.block}"
        return SparseMlp(
            router=self.router(moe, f"{block}.gate"),
            experts=tuple(
                self.dense(f"{block}.experts.{expert}", moe.parts, moe.intermediate_size)
                for expert in range(moe.num_experts)
            ),
            shared=self.dense(f"{block}.shared_experts", DENSE, moe.shared_size)
            if moe.shared_size
            else None,
        )

    def router(self, moe: MoeConfig, name: str) -> Router:
        weight = self.source.tensor(
            f"{name}.weight", (moe.num_experts, self.config.hidden_size)
        ).to(self.device)
        groups = moe.groups
        if groups is None:
            return SoftmaxRouter(weight.to(self.dtype), moe.experts_per_token, moe.normalise)
        bias = None
        if groups.has_bias:
            bias = self.source.tensor(f"{name}.e_score_correction_bias", (moe.num_experts,))
        return GroupRouter(
            weight=weight.float(),
            bias=None if bias is None else bias.to(self.device, torch.float32),
            experts_per_token=moe.experts_per_token,
            num_groups=groups.num_groups,
            groups_kept=groups.groups_kept,
            normalise=moe.normalise,
            scale=groups.scale,
        )

    def dense(self, prefix: str, parts: tuple[str, str, str], inner: int) -> DenseMlp:
        """The feed-forward whose gate, up and down projections are called `prefix.part`."""
        hidden, bias = self.config.hidden_size, self.config.mlp_bias
        gate, up, down = parts
        return DenseMlp(
            kernels=self.kernels,
            gate_up=self.linear(prefix, ("gate_up_proj",), (2 * inner,), hidden, bias)
            if self.config.fused_projections
            else self.linear(prefix, (gate, up), (inner, inner), hidden, bias),
            down=self.linear(prefix, (down,), (hidden,), inner, bias),
            gelu=self.config.gemma is not None,
        )

    def lm_head(self) -> Linear:
        name = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
        shape = (self.config.vocab_size, self.config.hidden_size)
        weight = self.source.tensor(f"{name}.weight", shape)
        return self.kernels.linear(weight.to(self.device, self.dtype), None, wide=True)

    def token_table(self) -> Embedding:
        shape = (self.config.vocab_size, self.config.hidden_size)
        table = self.source.tensor("model.embed_tokens.weight", shape)
        if self.config.gemma is None:
            return Embedding(table.to(self.device), self.dtype)
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=self.dtype)
        return Embedding(table.to(self.device), self.dtype, scale.item())

    def ropes(self) -> tuple[Tensor, ...]:
        """The rotary table of each layer; layers with the same encoding share one."""
        config, length = self.config, self.config.max_position_embeddings
        table = rope_table(config.rope, config.rope_size, length).to(self.device)
        if config.gemma is None:
            return (table,) * config.num_layers
        local = rope_table(config.gemma.local_rope, config.head_dim, length).to(self.device)
        return tuple(table if window is None else local for window in config.layer_windows)


def build_model(
    config: ModelConfig,
    source: TensorSource,
    dtype: torch.dtype,
    device: torch.device,
    kernels: str = "auto",
    in_fp8: Fp8Steps | None = None,
) -> Model:
    """Assemble the model layer by layer, so that at most one layer exists twice at a time.

    `kernels` names the kernel set; `auto` takes the fastest one that the device has. Projections
    that `in_fp8` has a step for are kept in fp8 and multiplied so.
    """
    builder = _Builder(config, source, dtype, device, kernel_set(kernels, device), in_fp8)
    return Model(
        config=config,
        dtype=dtype,
        device=device,
        kernels=builder.kernels,
        embedding=builder.token_table(),
        layers=tuple(builder.layer(index) for index in range(config.num_layers)),
        final_norm=builder.norm("model.norm.weight", config.hidden_size),
        lm_head=builder.lm_head(),
        ropes=builder.ropes(),
    )
