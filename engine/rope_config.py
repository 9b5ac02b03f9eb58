"""How a model's rotary position encoding is scaled, read from either style of config.json."""

from dataclasses import dataclass, replace

from engine.errors import ModelError
from engine.json_fields import JsonFields

KINDS = ("default", "linear", "llama3", "yarn", "longrope")
OLD_NAMES = {"su": "longrope"}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary encoding: base `theta` and the scaling named by `kind`, with that kind's fields.

    Of each head the first `partial` of its elements rotate; the rest pass.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    partial: float = 1.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def rotary_dim(self, head_dim: int) -> int:
        """How many elements of a head rotate."""
        return int(head_dim * self.partial)

    def is_long(self, num_positions: int) -> bool:
        """Whether a context of so many tokens takes the long factors of LongRoPE."""
        return self.kind == "longrope" and num_positions > self.original_max_positions


def read_rope(config: JsonFields, max_positions: int, may_be_partial: bool = False) -> RopeConfig:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    Raises ModelError for a scaling that is unknown or lacks its factor.
    """
    fields = config.nested("rope_parameters")
    if not fields.values:
        fields = config.nested("rope_scaling")
    theta = fields.number("rope_theta", config.number("rope_theta", 10000.0))
    kind = fields.text("rope_type", fields.text("type", "default"))
    kind = OLD_NAMES.get(kind, kind)
    partial = fields.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    if partial != 1.0 and not may_be_partial:
        raise ModelError(config.path, "partial rotary encoding is not supported")
    if not 0 < partial <= 1:
        raise ModelError(config.path, f"partial_rotary_factor {partial} is not in (0, 1]")
    if kind in ("default", "dynamic"):  # dynamic scaling begins beyond the context that is served
        return RopeConfig(theta, partial=partial)
    if kind not in KINDS:
        raise ModelError(config.path, f"rope type {kind!r} is not supported (known: {KINDS})")
    if kind == "longrope":
        return _longrope(config, fields, max_positions, RopeConfig(theta, kind, partial=partial))
    return replace(_scaled(fields, theta, kind, max_positions), partial=partial)


def _longrope(
    config: JsonFields, fields: JsonFields, max_positions: int, rope: RopeConfig
) -> RopeConfig:
    original = config.integer("original_max_position_embeddings", max_positions)
    original = fields.integer("original_max_position_embeddings", original)
    given = "attention_factor" in fields
    return replace(
        rope,
        factor=fields.number("factor", max_positions / original),
        original_max_positions=original,
        attention_factor=fields.number("attention_factor") if given else None,
        short_factors=fields.numbers("short_factor"),
        long_factors=fields.numbers("long_factor"),
    )


def _scaled(fields: JsonFields, theta: float, kind: str, max_positions: int) -> RopeConfig:
    original = fields.integer("original_max_position_embeddings", max_positions)
    has_factor = "factor" in fields or kind != "yarn"
    return RopeConfig(
        theta=theta,
        kind=kind,
        factor=fields.number("factor") if has_factor else max_positions / original,
        low_freq_factor=fields.number("low_freq_factor", 1.0),
        high_freq_factor=fields.number("high_freq_factor", 4.0),
        original_max_positions=original,
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        truncate=fields.flag("truncate", True),
        attention_factor=fields.number("attention_factor")
        if "attention_factor" in fields
        else None,
        mscale=fields.number("mscale", 0.0),
        mscale_all_dim=fields.number("mscale_all_dim", 0.0),
    )
