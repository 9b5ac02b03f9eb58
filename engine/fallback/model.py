"""transformers' layers over the paged cache, through its exchangeable attention."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import ModelError
from engine.fallback.config import model_class
from engine.kernels import BatchInput, KernelSet, kernel_set

log = logging.getLogger(__name__)

ATTENTION = "baton_paged"  # the name that transformers knows the attention below by
TRIAL_TOKENS = 24
TOLERANCES = {torch.float32: 1e-3}  # of a trial's logits, relative to their norm
TOLERANCE = 0.1  # in narrower dtypes
BLOCK = 16


class ForeignModelError(Exception):
    """What an attention layer asks for that a paged cache does not give."""


@dataclass(slots=True)
class _Step:
    """One forward pass, as the attention layers see it."""

    batch: BatchInput
    kv: Tensor
    kernels: KernelSet
    on_layers: Callable[[int], None] | None
    num_stored: int = 0  # layers so far
    has_window: bool = False  # in one of them


def paged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    paged: _Step | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, num_heads, T, head_dim], key and value with
    num_kv_heads -> [1, T, num_heads, head_dim]. Layers call it in order.

    Raises ForeignModelError for a cap of the scores or a sink, or for heads of another shape.
    """
    for name in ("softcap", "s_aux"):
        if options.get(name) is not None:
            raise ForeignModelError(f"its attention has a {name}")
    if paged is None:
        raise ForeignModelError("its layers do not hand a step's arguments on")
    layer, head_dim = paged.num_stored, query.shape[3]
    if layer >= len(paged.kv):
        raise ForeignModelError(f"more than {len(paged.kv)} layers attend")
    layer_kv = paged.kv[layer]
    if key.shape != value.shape or key.shape[1::2] != layer_kv.shape[2::2]:
        heads, size = layer_kv.shape[2::2]
        raise ForeignModelError(f"a layer's keys are not {heads} heads of {size}")
    block, offset = paged.batch.slots // BLOCK, paged.batch.slots % BLOCK
    layer_kv[block, 0, :, offset] = key[0].transpose(0, 1)
    layer_kv[block, 1, :, offset] = value[0].transpose(0, 1)
    paged.num_stored += 1
    paged.has_window |= sliding_window is not None
    if paged.on_layers is not None:
        paged.on_layers(paged.num_stored)
    q = query[0].transpose(0, 1)
    if scaling is not None:  # the kernels divide by the root of the head size
        q = q * (scaling * head_dim**0.5)
    out = paged.kernels.attention(q.contiguous(), paged.batch, layer_kv, sliding_window)
    return out.view(1, *q.shape), None


class FallbackModel:
    """A model of transformers as the engine runs models. It holds no KV memory."""

    def __init__(
        self, config: ModelConfig, theirs: Any, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._config = config
        self._theirs = theirs
        self._device = device
        self._kernels = kernel_set("auto", device)
        self._has_window = has_window(theirs.config)
        self.dtype = dtype

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """As Model.forward."""
        assert kv.dtype == self.dtype and len(kv) == self._config.num_layers
        if self._device.type == "cpu":
            batch.check_bounds(kv.shape[1], BLOCK, self._config.max_position_embeddings)
        step = _Step(batch, kv, self._kernels, on_layers)
        out = self._theirs(
            input_ids=batch.token_ids.unsqueeze(0),
            position_ids=batch.positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=batch.logit_rows,
            paged=step,
        )
        if step.num_stored != self._config.num_layers:
            raise ForeignModelError(f"{step.num_stored} of {self._config.num_layers} layers attend")
        if self._has_window and not step.has_window:
            raise ForeignModelError("its layers do not say how wide their window is")
        logits: Tensor = out.logits[0].float()
        return logits

    @torch.inference_mode()
    def trial_error(self) -> float:
        """How far a short text's logits, fed in two parts, are from those that transformers gives
        with its own attention, relative to their norm."""
        tokens = torch.arange(TRIAL_TOKENS, device=self._device) * 7 % self._config.vocab_size
        kv = torch.zeros(self._config.kv_shape(2), dtype=self.dtype, device=self._device)
        parts = ((0, 2 * TRIAL_TOKENS // 3), (2 * TRIAL_TOKENS // 3, TRIAL_TOKENS))
        ours = torch.cat([self.forward(_trial(tokens, *part), kv) for part in parts])
        self._theirs.set_attn_implementation("eager")
        wanted = self._theirs(input_ids=tokens.unsqueeze(0), use_cache=False).logits[0].float()
        self._theirs.set_attn_implementation(ATTENTION)
        return float((ours - wanted).norm() / wanted.norm())


def has_window(theirs: Any) -> bool:
    """Whether a configuration of transformers has layers with a sliding window."""
    kinds = getattr(theirs, "layer_types", None)
    if kinds:
        return "sliding_attention" in kinds
    is_used = getattr(theirs, "use_sliding_window", True)
    return bool(is_used and getattr(theirs, "sliding_window", None))


def _trial(tokens: Tensor, start: int, end: int) -> BatchInput:
    """Tokens start..end of one sequence in the first blocks."""
    rows = torch.arange(start, end, device=tokens.device)
    return BatchInput(
        token_ids=tokens[start:end].contiguous(),
        positions=rows,
        slots=rows,
        block_tables=torch.tensor([[0, 1]], dtype=torch.int32, device=tokens.device),
        query_start=torch.tensor([0, end - start], dtype=torch.int32, device=tokens.device),
        context_len=torch.tensor([end], dtype=torch.int32, device=tokens.device),
        logit_rows=rows - start,
    )


def load_fallback(
    path: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> FallbackModel:
    """Load a model whose layers are transformers', and try it once against its own attention.

    Raises ModelError where it cannot be loaded, or where the trial's logits differ: its attention
    is then not what the engine computes.
    """
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(ATTENTION, paged_attention)
    try:
        theirs = model_class(config.architecture).from_pretrained(
            path, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True
        )
    except (ValueError, OSError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(path, f"transformers cannot load it: {error}") from error
    model = FallbackModel(config, theirs.eval().to(device), dtype, device)
    try:
        error_found = model.trial_error()
    except (ForeignModelError, TypeError) as error:
        raise ModelError(path, f"{config.architecture} cannot be served: {error}") from error
    if not error_found <= TOLERANCES.get(dtype, TOLERANCE):
        reason = f"its attention is another than the engine's: logits differ by {error_found:.1%}"
        raise ModelError(path, f"{config.architecture} cannot be served: {reason}")
    log.warning(
        "%s runs through transformers' layers, slower than architectures that the engine knows",
        config.architecture,
    )
    return model
