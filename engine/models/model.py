"""A decoder-only language model over a paged KV cache that it is handed at each step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import BatchInput, KernelSet, Linear
from engine.kernels.fp8_linear import FP8
from engine.layers.decoder_layer import DecoderLayer, Embedding
from engine.models.taps import Taps


@dataclass(frozen=True, slots=True)
class Model:
    """Weights and operators of one model on one device. It holds no KV memory.

    taps: what a forward pass leaves its states in; None: it leaves none.
    """

    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    kernels: KernelSet
    embedding: Embedding
    layers: tuple[DecoderLayer, ...]
    final_norm: Tensor  # [hidden]
    lm_head: Linear
    ropes: tuple[Tensor, ...]  # one a layer, [max_positions, rope_size] float32
    taps: Taps | None = None

    @torch.inference_mode()
    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """Store the keys and values of the batch's tokens and return logits [L, vocab] float32.

        kv is of `config.kv_shape` in the model's dtype,
        or in fp8 for a model whose heads are scaled for it (engine/kv_scaling.py).
        `on_layers(n)` is called when the keys and values of the first n layers are in the cache.
        """
        assert len(kv) == len(self.layers)
        assert kv[0].is_contiguous() or kv.device.type == "cpu", "devices take whole caches"
        assert kv.dtype in (self.dtype, FP8), kv.dtype
        x = self.embedding(batch.token_ids)
        residual: Tensor | None = None
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            rows = batch.logit_rows if index == last else None
            if self.taps is not None:
                self.taps.pass_by(index, x, residual)
            x, residual = layer(x, residual, self.ropes[index], batch, kv[index], rows)
            if on_layers is not None:
                on_layers(index + 1)
        x, _ = self.kernels.rms_norm(x, residual, self.final_norm, self.config.rms_norm_eps)
        return self.lm_head(x)
