"""Brings each head's keys and values into fp8's range, by weights that cancel out.

    q k = (q s) (k / s)        out_proj [v] = (out_proj t) [v / t]

s and t are powers of two, one a kv head, so the scaled weights are exact and the model is the same
model; only what it caches is larger or smaller. Kernels then write and read fp8 by casting alone.
"""

import re

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels.fp8_linear import FP8_LARGEST
from engine.models.parts import TensorSource

SCALING = "fp8.1"  # part of a worker's fingerprint: caches that were scaled otherwise do not mix
_HEADROOM = 32.0  # standard deviations of a head's largest element below fp8's largest value
_BIAS_HEADROOM = 2.0  # the same for a bias, which is added to them
_NAME = re.compile(r"model\.layers\.(\d+)\.self_attn\.(\w+)\.(weight|bias)")


class ScaledHeads:
    """A checkpoint whose projections of q, k, v and out are scaled a kv head at a time.

    A head's scale comes from its weights: inputs of a projection are normalised, so an element's
    standard deviation is about the length of its row, times the norm's factors. Keys that are
    normalised after their projection are as large as that norm's factors, and all heads have one
    scale; Gemma's, which stores them less one, stay as they are.
    """

    def __init__(self, config: ModelConfig, source: TensorSource) -> None:
        self._config = config
        self._source = source
        self._scales: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, each [kv heads]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """As the source's. Raises ModelError as it does."""
        found = self._source.tensor(name, shape)
        part = _NAME.fullmatch(name)
        if part is None or name.endswith("o_proj.bias"):
            return found
        factors = self._factors(int(part[1]), part[2])
        if factors is None:
            return found
        # A projection's rows are heads; the output's columns are.
        return found * (factors if part[2] == "o_proj" or found.dim() == 1 else factors[:, None])

    def _factors(self, layer: int, part: str) -> Tensor | None:
        """Of each row, or column, of a part of the attention; None: it is left alone."""
        config = self._config
        k_scale, v_scale = self._of(layer)
        if part in ("q_norm", "k_norm"):
            whole = k_scale[:1].expand(config.head_dim)
            return whole if part == "q_norm" else 1 / whole
        group = config.num_heads // config.num_kv_heads
        plain = torch.ones(config.num_kv_heads) if config.qk_norm else k_scale
        heads = {
            "q_proj": plain.repeat_interleave(group),
            "k_proj": 1 / plain,
            "v_proj": 1 / v_scale,
            "o_proj": v_scale.repeat_interleave(group),
        }
        heads["qkv_proj"] = torch.cat([heads[name] for name in ("q_proj", "k_proj", "v_proj")])
        return heads[part].repeat_interleave(config.head_dim) if part in heads else None

    def _of(self, layer: int) -> tuple[Tensor, Tensor]:
        """The scales of a layer's keys and values."""
        if layer not in self._scales:
            self._scales[layer] = self._keys(layer), scale_for(self._reach(layer, "v"))
        return self._scales[layer]

    def _keys(self, layer: int) -> Tensor:
        config = self._config
        if not config.qk_norm:
            return scale_for(self._reach(layer, "k"))
        if config.gemma is not None:
            return torch.ones(config.num_kv_heads)
        name = f"model.layers.{layer}.self_attn.k_norm.weight"
        largest = self._source.tensor(name, (config.head_dim,)).float().abs().max()
        # A normalised vector is sqrt(head_dim) long, and a rotation adds two of its elements.
        return scale_for((largest * (2 * config.head_dim) ** 0.5).expand(config.num_kv_heads))

    def _reach(self, layer: int, part: str) -> Tensor:
        """What the elements of each kv head stay below: [kv heads]"""
        config, prefix = self._config, f"model.layers.{layer}"
        norm = self._source.tensor(f"{prefix}.input_layernorm.weight", (config.hidden_size,))
        weight = self._projection(f"{prefix}.self_attn", part)
        factors = norm.float() + float(config.gemma is not None)
        reach = _HEADROOM * torch.linalg.vector_norm(weight.float() * factors, dim=1)
        if config.qkv_bias:
            name = f"{prefix}.self_attn.{part}_proj.bias"
            reach += _BIAS_HEADROOM * self._source.tensor(name, (config.kv_size,)).float().abs()
        widest: Tensor = reach.view(config.num_kv_heads, config.head_dim).amax(1)
        return widest

    def _projection(self, prefix: str, part: str) -> Tensor:
        config = self._config
        if not config.fused_projections:
            shape = (config.kv_size, config.hidden_size)
            return self._source.tensor(f"{prefix}.{part}_proj.weight", shape)
        rows = config.q_size + 2 * config.kv_size
        fused = self._source.tensor(f"{prefix}.qkv_proj.weight", (rows, config.hidden_size))
        start = config.q_size if part == "k" else config.q_size + config.kv_size
        return fused[start : start + config.kv_size]


def scale_for(reach: Tensor) -> Tensor:
    """The smallest power of two that brings each reach to fp8's largest value or below."""
    return torch.exp2((reach.clamp(min=1e-20) / FP8_LARGEST).log2().ceil())
