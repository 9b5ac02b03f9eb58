"""The table of rotary angles, for every scaling that RopeConfig names."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from engine.rope_config import RopeConfig


def rope_table(rope: RopeConfig, head_dim: int, num_positions: int) -> Tensor:
    """[num_positions, head_dim] float32: the cosines of each position's angles, then the sines.

    Where a part of a head rotates, its pairs come first and the others turn by nothing: element
    i of a head is paired with element i + head_dim / 2, for which `pair_order` lays heads out.
    """
    rotary_dim = rope.rotary_dim(head_dim)
    positions = torch.arange(num_positions, dtype=torch.float32)
    angles = torch.outer(positions, inverse_frequencies(rope, rotary_dim, num_positions))
    scale, passing = attention_scale(rope), (0, (head_dim - rotary_dim) // 2)
    cos = functional.pad(angles.cos() * scale, passing, value=1.0)
    return torch.cat((cos, functional.pad(angles.sin() * scale, passing)), dim=-1)


def pair_order(rope: RopeConfig, head_dim: int) -> Tensor:
    """[head_dim] int64: which element of a head, as stored, stands where `rope_table` wants it.

    stored    | rotating low | rotating high | passing low | passing high |
    wanted    | rotating low | passing low | rotating high | passing high |
    """
    half = rope.rotary_dim(head_dim) // 2
    stored = torch.arange(head_dim)
    low, high, passing = stored.tensor_split((half, 2 * half))
    pass_low, pass_high = passing.chunk(2) if passing.numel() else (passing, passing)
    return torch.cat((low, pass_low, high, pass_high))


def inverse_frequencies(rope: RopeConfig, head_dim: int, num_positions: int) -> Tensor:
    """[head_dim / 2] float32, radians a position, of a head of which all elements rotate."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "longrope":
        factors = rope.long_factors if rope.is_long(num_positions) else rope.short_factors
        return 1.0 / (torch.tensor(factors) * rope.theta**exponents)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":
        return _yarn(rope, plain, head_dim)
    return plain


def attention_scale(rope: RopeConfig) -> float:
    """What YaRN (arXiv 2309.00071, section 3.4) and LongRoPE (arXiv 2402.13753, section 3.3)
    multiply queries and keys with; else 1."""
    if rope.kind not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.kind == "longrope":
        return _longrope_scale(rope)
    if rope.mscale and rope.mscale_all_dim:
        return yarn_scale(rope.factor, rope.mscale) / yarn_scale(rope.factor, rope.mscale_all_dim)
    return yarn_scale(rope.factor, 1.0)


def yarn_scale(factor: float, weight: float) -> float:
    """How much longer YaRN makes queries and keys for a context so many times as long."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _longrope_scale(rope: RopeConfig) -> float:
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_positions))


def _llama3(rope: RopeConfig, plain: Tensor) -> Tensor:
    """Llama 3.1: keep the short wavelengths, stretch the long ones, blend between."""
    wavelength = 2 * math.pi / plain
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (rope.original_max_positions / wavelength - low) / (high - low)
    blended = (1 - smooth) * plain / rope.factor + smooth * plain
    stretched = torch.where(
        wavelength > rope.original_max_positions / low, plain / rope.factor, blended
    )
    return torch.where(wavelength < rope.original_max_positions / high, plain, stretched)


def _yarn(rope: RopeConfig, plain: Tensor, head_dim: int) -> Tensor:
    """YaRN's ramp between interpolation and extrapolation (arXiv 2309.00071, section 3.2)."""

    def dimension(rotations: float) -> float:
        span = rope.original_max_positions / (rotations * 2 * math.pi)
        return head_dim * math.log(span) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    steps = torch.arange(head_dim // 2, dtype=torch.float32)
    ramp = ((steps - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / rope.factor * ramp + plain * (1 - ramp)
