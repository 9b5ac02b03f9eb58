"""Assembles multi-head latent attention from a checkpoint's tensors."""

import torch
from torch import Tensor

from engine.kernels import Linear
from engine.kernels.latent import LatentHeads
from engine.latent_config import LatentConfig
from engine.layers.attention import LatentAttention, LowRank
from engine.layers.shard import Shard
from engine.models.parts import PartBuilder

NORM_EPS = 1e-6  # of the norms on latents, whatever config.json says of the others


def latent_attention(
    builder: PartBuilder, latent: LatentConfig, prefix: str, shard: Shard
) -> LatentAttention:
    """The attention whose tensors are called `prefix.part`, of a share of its heads. Raises
    ModelError as the source."""
    config = builder.config
    return LatentAttention(
        kernels=builder.kernels,
        queries=_queries(builder, latent, prefix, shard),
        latents=builder.linear(
            prefix,
            ("kv_a_proj_with_mqa",),
            (latent.cached_dim,),
            config.hidden_size,
            config.qkv_bias,
            pair_rows(latent, range(1), latent.rank) if latent.interleaved else None,
        ),
        norm=builder.norm(f"{prefix}.kv_a_layernorm.weight", latent.rank),
        eps=NORM_EPS,
        heads=_heads(builder, latent, prefix, shard),
    )


def _queries(
    builder: PartBuilder, latent: LatentConfig, prefix: str, shard: Shard
) -> Linear | LowRank:
    config, rank = builder.config, latent.query_rank
    sizes = (config.num_heads * latent.query_dim,)
    rows = None
    if latent.interleaved or not shard.is_whole:
        rows = pair_rows(latent, shard.of(config.num_heads), latent.plain_dim)
    if rank is None:
        return builder.linear(prefix, ("q_proj",), sizes, config.hidden_size, False, rows)
    return LowRank(
        kernels=builder.kernels,
        down=builder.linear(prefix, ("q_a_proj",), (rank,), config.hidden_size, config.qkv_bias),
        norm=builder.norm(f"{prefix}.q_a_layernorm.weight", rank),
        up=builder.linear(prefix, ("q_b_proj",), sizes, rank, False, rows),
        eps=NORM_EPS,
    )


def _heads(builder: PartBuilder, latent: LatentConfig, prefix: str, shard: Shard) -> LatentHeads:
    heads = builder.config.num_heads
    made = latent.plain_dim + latent.value_dim
    both = builder.source.tensor(f"{prefix}.kv_b_proj.weight", (heads * made, latent.rank))
    own = shard.of(heads)
    mine = both.view(heads, made, latent.rank)[own.start : own.stop]
    by_head = mine.to(builder.device, builder.dtype)
    key_up, value_up = by_head.tensor_split((latent.plain_dim,), dim=1)
    return LatentHeads(key_up.contiguous(), value_up.contiguous(), latent.scale)


def pair_rows(latent: LatentConfig, heads: range, num_plain: int) -> Tensor:
    """The rows of a projection for these heads, in the order that has the halves of each rotating
    pair half of rope_dim apart, behind the `num_plain` rows of a head that do not rotate."""
    turning = torch.arange(latent.rope_dim)
    if latent.interleaved:
        turning = turning.view(-1, 2).T.flatten()
    one = torch.cat((torch.arange(num_plain), turning + num_plain))
    firsts = torch.tensor(heads) * (num_plain + latent.rope_dim)
    return (firsts.unsqueeze(1) + one).flatten()
