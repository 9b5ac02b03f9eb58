"""Assembles a model from named tensors: fuses projections and lays them out for the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from engine.config import ModelConfig
from engine.kernels import HeadShape, Linear, kernel_set
from engine.layers.attention import GroupedAttention, LatentAttention
from engine.layers.decoder_layer import DecoderLayer, Embedding
from engine.layers.grouped_mlp import GroupedMlp
from engine.layers.mlp import DenseMlp, SparseMlp
from engine.layers.rope import pair_order, rope_table
from engine.layers.routing import GroupRouter, Router, SoftmaxRouter
from engine.layers.shard import WHOLE, GatheredHead, Group, Shard, Summed, check_divides
from engine.models.columns import Columns
from engine.models.experts import stacked_experts
from engine.models.latent import latent_attention
from engine.models.model import Model
from engine.models.parts import Fp8Steps, PartBuilder, TensorSource
from engine.moe_config import MoeConfig

DENSE = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class _Builder(PartBuilder):
    """Of a group's model: of this rank's share."""

    group: Group | None = None

    @property
    def shard(self) -> Shard:
        return WHOLE if self.group is None else self.group.shard

    def summed(self, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Of a part that each rank computes a summand of."""
        return part if self.group is None else Summed(part, self.group)

    def inward(self, prefix: str, part: str, in_features: int, bias: bool, shard: Shard) -> Linear:
        """The projection to the hidden size, of a share of its inputs; rank 0 adds the bias."""
        parts, sizes = (part,), (self.config.hidden_size,)
        if shard.is_whole:
            return self.linear(prefix, parts, sizes, in_features, bias)
        own = shard.of(in_features)
        builder = replace(self, source=Columns(self.source, own, in_features))
        return builder.linear(prefix, parts, sizes, len(own), bias and shard.rank == 0)

    def heads(self, prefix: str) -> HeadShape:
        config, dim = self.config, self.config.head_dim
        return HeadShape(
            num_heads=len(self.shard.of(config.num_heads)),
            num_kv_heads=len(self.shard.kv_heads(config.num_kv_heads)),
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
            out=self.summed(
                self.inward(attention, "o_proj", config.out_size, config.o_bias, self.shard)
            ),
            post_norm=norm("pre_feedforward" if gemma else "post_attention"),
            mlp=self.mlp(index, prefix),
            after_attention=norm("post_attention") if gemma else None,
            after_mlp=norm("post_feedforward") if gemma else None,
        )

    def attention(self, index: int, prefix: str) -> GroupedAttention | LatentAttention:
        if self.config.latent is not None:
            return latent_attention(self, self.config.latent, prefix, self.shard)
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
        """The rows of the fused projection for this rank's heads, in the order that brings the
        halves of each rotating pair half a head apart; None for all rows as they are stored."""
        config, shard = self.config, self.shard
        if config.rope.partial == 1.0 and shard.is_whole:
            return None
        turned, stored = pair_order(config.rope, config.head_dim), torch.arange(config.head_dim)
        kv_heads = shard.kv_heads(config.num_kv_heads)

        def rows(heads: range, first: int, order: Tensor) -> Tensor:
            firsts = first + config.head_dim * torch.tensor(heads).unsqueeze(1)
            return (firsts + order).flatten()

        return torch.cat(
            (
                rows(shard.of(config.num_heads), 0, turned),
                rows(kv_heads, config.q_size, turned),
                rows(kv_heads, config.q_size + config.kv_size, stored),
            )
        )

    def mlp(self, index: int, prefix: str) -> Callable[[Tensor], Tensor]:
        """Experts are divided whole, everything else by the columns between its products."""
        moe = self.config.experts_of(index)
        if moe is None:
            inner = self.config.intermediate_size
            return self.summed(self.dense(f"{prefix}.mlp", DENSE, inner, self.shard))
        block = f"{prefix}.{moe.block}"
        own = self.shard.of(moe.num_experts)
        router = self.router(moe, f"{block}.gate")
        shared = (
            self.dense(f"{block}.shared_experts", DENSE, moe.shared_size, self.shard)
            if moe.shared_size
            else None
        )
        grouped = self.kernels.grouped
        if grouped is not None and self.shard.is_whole and self.config.quantisation is None:
            weights = stacked_experts(self, moe, f"{block}.experts")
            return GroupedMlp(self.kernels, grouped, router, *weights, shared)
        sparse = SparseMlp(
            router=router,
            experts=tuple(
                self.dense(f"{block}.experts.{expert}", moe.parts, moe.intermediate_size, WHOLE)
                for expert in own
            ),
            shared=shared,
            first_expert=own.start,
        )
        return self.summed(sparse)

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

    def dense(self, prefix: str, parts: tuple[str, str, str], inner: int, shard: Shard) -> DenseMlp:
        """The feed-forward whose gate, up and down projections are called `prefix.part`."""
        hidden, bias = self.config.hidden_size, self.config.mlp_bias
        gate, up, down = parts
        rows = None
        if not shard.is_whole:
            own = torch.tensor(shard.of(inner))
            rows = torch.cat((own, own + inner))
        return DenseMlp(
            kernels=self.kernels,
            gate_up=self.linear(prefix, ("gate_up_proj",), (2 * inner,), hidden, bias, rows)
            if self.config.fused_projections
            else self.linear(prefix, (gate, up), (inner, inner), hidden, bias, rows),
            down=self.inward(prefix, down, inner, bias, shard),
            gelu=self.config.gemma is not None,
        )

    def lm_head(self) -> Linear:
        name = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
        shape = (self.config.vocab_size, self.config.hidden_size)
        weight = self.source.tensor(f"{name}.weight", shape)
        if self.group is None:
            return self.kernels.linear(weight.to(self.device, self.dtype), None, wide=True)
        own = self.shard.padded(self.config.vocab_size)
        rows = -(-self.config.vocab_size // self.shard.size)
        part = functional.pad(weight[own.start : own.stop], (0, 0, 0, rows - len(own)))
        linear = self.kernels.linear(part.to(self.device, self.dtype), None, wide=True)
        return GatheredHead(linear, self.group, self.config.vocab_size)

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
    group: Group | None = None,
) -> Model:
    """Assemble the model layer by layer, so that at most one layer exists twice at a time.

    `kernels` names the kernel set; `auto` takes the fastest one that the device has. Projections
    that `in_fp8` has a step for are kept in fp8 and multiplied so.
    group: whose share of the weights is taken. Every rank has the token table and the norms.
    Raises ValueError where the group cannot share the model.
    """
    if group is not None:
        check_divides(config, group.shard.size)
    builder = _Builder(config, source, dtype, device, kernel_set(kernels, device), in_fp8, group)
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
