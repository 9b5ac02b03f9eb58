"""An EAGLE-3 head: one decoder layer over the fused states of a larger model.

Position i of the larger model gives a state h, and the token behind it is known:

    h(i)      [low | middle | high] --fuse--> f(i) --norm--+
    t(i + 1)  --token table--> e(i) --norm-----------------+--> attention, feed-forward --> g(i)

The residual is f. The norm and the head over g(i) give the logits of token i + 2; further on
g(i) stands for f(i + 1), which is not known yet.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.eagle_config import NUM_STATES, EagleConfig
from engine.kernels import BatchInput, HeadShape, KernelSet, Linear, kernel_set
from engine.layers.decoder_layer import Embedding
from engine.layers.mlp import DenseMlp
from engine.layers.rope import rope_table
from engine.models.parts import PartBuilder, TensorSource


@dataclass(frozen=True, slots=True)
class EagleHead:
    """Weights and operators of one head on one device. It holds no KV memory."""

    config: EagleConfig
    device: torch.device
    kernels: KernelSet
    embedding: Embedding
    fuse: Linear
    token_norm: Tensor  # [hidden]
    state_norm: Tensor  # [hidden]
    heads: HeadShape
    qkv: Linear
    out: Linear
    post_norm: Tensor  # [hidden]
    mlp: DenseMlp
    final_norm: Tensor  # [hidden]
    lm_head: Linear
    rope: Tensor  # [max_positions, head_dim] float32
    targets: Tensor | None  # [draft_vocab] int64: the large model's ids; None: they are the same

    @torch.inference_mode()
    def fused(self, states: Tensor) -> Tensor:
        """The large model's [T, 3 * target_hidden] -> f [T, hidden]."""
        return self.fuse(states)

    @torch.inference_mode()
    def forward(self, features: Tensor, batch: BatchInput, ending: Tensor, kv: Tensor) -> Tensor:
        """Stores keys and values of every position, and gives g [L, hidden] of the batch's L
        logit rows, each the last row of its sequence.

        features [T, hidden]: f or g of each position; the batch has the tokens behind these.
        ending [L] int64: the sequences of the logit rows. kv: as the large model's, of one layer.
        """
        ends = batch.logit_rows
        eps, norm = self.config.layer.rms_norm_eps, self.kernels.rms_norm
        state, _ = norm(features, None, self.state_norm, eps)
        token, _ = norm(self.embedding(batch.token_ids), None, self.token_norm, eps)
        qkv = self.qkv(torch.cat((token, state), dim=-1))
        q = self.kernels.store_kv(qkv, self.heads, self.rope, batch, kv[0])
        if not len(ends):
            return features[:0]
        last = last_tokens(batch, ending)
        x = self.out(self.kernels.attention(q[ends], last, kv[0], None))
        residual = (state if self.config.normed_residual else features)[ends]
        x, residual = norm(x, residual, self.post_norm, eps)
        return residual + self.mlp(x)

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """Of g [L, hidden]: [L, vocab] float32 of the large model's tokens; those that the head
        does not know have none."""
        x, _ = self.kernels.rms_norm(states, None, self.final_norm, self.config.layer.rms_norm_eps)
        own: Tensor = self.lm_head(x)
        if self.targets is None:
            return own
        logits = own.new_full((own.shape[0], self.config.layer.vocab_size), float("-inf"))
        logits[:, self.targets] = own
        return logits


def last_tokens(batch: BatchInput, ending: Tensor) -> BatchInput:
    """The batch's logit rows alone, which are of the sequences `ending`, over the same cache."""
    ends = batch.logit_rows
    rows = torch.arange(len(ends) + 1, device=ends.device)
    return BatchInput(
        token_ids=batch.token_ids[ends],
        positions=batch.positions[ends],
        slots=batch.slots[ends],
        block_tables=batch.block_tables[ending],
        query_start=rows.int(),
        context_len=batch.context_len[ending],
        logit_rows=rows[:-1],
    )


def build_eagle(
    config: EagleConfig,
    source: TensorSource,
    prefix: str,
    table: Tensor,
    targets: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
    kernels: str = "auto",
) -> EagleHead:
    """The head whose layer's tensors are called `prefix.part`, for positions up to the layer's
    max_position_embeddings.

    table: the token table [vocab, hidden]. targets: as EagleHead has them. Raises ModelError.
    """
    layer = config.layer
    hidden, inner = layer.hidden_size, layer.intermediate_size
    builder = PartBuilder(layer, source, dtype, device, kernel_set(kernels, device))
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    sizes = (layer.q_size, layer.kv_size, layer.kv_size)

    def bare(name: str, rows: int, columns: int, wide: bool) -> Linear:
        weight = source.tensor(f"{name}.weight", (rows, columns))
        return builder.kernels.linear(weight.to(device, dtype), None, wide=wide)

    return EagleHead(
        config=config,
        device=device,
        kernels=builder.kernels,
        embedding=Embedding(table.to(device), dtype),
        fuse=bare("fc", hidden, NUM_STATES * config.target_hidden_size, wide=False),
        token_norm=builder.norm(f"{prefix}.input_layernorm.weight", hidden),
        state_norm=builder.norm(f"{prefix}.hidden_norm.weight", hidden),
        heads=HeadShape(layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.rms_norm_eps),
        qkv=builder.linear(
            attention, ("q_proj", "k_proj", "v_proj"), sizes, 2 * hidden, layer.qkv_bias
        ),
        out=builder.linear(attention, ("o_proj",), (hidden,), layer.q_size, layer.o_bias),
        post_norm=builder.norm(f"{prefix}.post_attention_layernorm.weight", hidden),
        mlp=DenseMlp(
            kernels=builder.kernels,
            gate_up=builder.linear(
                mlp, ("gate_proj", "up_proj"), (inner, inner), hidden, layer.mlp_bias
            ),
            down=builder.linear(mlp, ("down_proj",), (hidden,), inner, layer.mlp_bias),
        ),
        final_norm=builder.norm("norm.weight", hidden),
        lm_head=bare("lm_head", config.draft_vocab_size, hidden, wide=True),
        rope=rope_table(layer.rope, layer.head_dim, layer.max_position_embeddings).to(device),
        targets=None if targets is None else targets.to(device),
    )
