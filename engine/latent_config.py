"""The shape of multi-head latent attention, read from config.json."""

from dataclasses import dataclass

from engine.errors import ModelError
from engine.json_fields import JsonFields
from engine.layers.rope import yarn_scale
from engine.rope_config import RopeConfig


@dataclass(frozen=True, slots=True)
class LatentConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    A token's keys and values of all heads are products of one vector of `rank` elements, its
    latent. The cache holds that and the `rope_dim` rotated elements that all heads share. A query
    head has `plain_dim` elements that do not rotate and `rope_dim` that do.
    """

    rank: int
    rope_dim: int
    plain_dim: int
    value_dim: int
    query_rank: int | None  # of the queries' own latent; None: they are one product
    interleaved: bool  # a rotating pair's halves are stored side by side
    scale: float  # of the scores, before the softmax

    @property
    def cached_dim(self) -> int:
        """Elements a token takes in a layer of the cache."""
        return self.rank + self.rope_dim

    @property
    def query_dim(self) -> int:
        return self.plain_dim + self.rope_dim

    def num_parameters(self, hidden_size: int, num_heads: int) -> int:
        """Weights of the linear parts of one layer's attention."""
        queries = num_heads * self.query_dim
        if self.query_rank is None:
            asked = hidden_size * queries
        else:
            asked = self.query_rank * (hidden_size + queries)
        cached = hidden_size * self.cached_dim
        expanded = self.rank * num_heads * (self.plain_dim + self.value_dim)
        return asked + cached + expanded + num_heads * self.value_dim * hidden_size


def read_latent(config: JsonFields, rope: RopeConfig) -> LatentConfig:
    """Raises ModelError for a field that is missing or that the engine cannot compute."""
    if config.flag("mlp_bias", False):
        raise ModelError(config.path, "mlp_bias is not supported beside latent attention")
    plain_dim = config.integer("qk_nope_head_dim")
    rope_dim = config.integer("qk_rope_head_dim")
    return LatentConfig(
        rank=config.integer("kv_lora_rank"),
        rope_dim=rope_dim,
        plain_dim=plain_dim,
        value_dim=config.integer("v_head_dim"),
        query_rank=config.integer("q_lora_rank") if "q_lora_rank" in config else None,
        interleaved=config.flag("rope_interleave", True),
        scale=(plain_dim + rope_dim) ** -0.5 * _sharpening(rope),
    )


def _sharpening(rope: RopeConfig) -> float:
    """What these models multiply scores with where their rotary encoding is scaled."""
    if rope.kind == "default" or not rope.mscale_all_dim:
        return 1.0
    return yarn_scale(rope.factor, rope.mscale_all_dim) ** 2
