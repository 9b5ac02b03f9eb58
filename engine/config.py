"""What a model directory says about its model: shapes, rotary encoding, windows, end tokens."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.errors import ModelError, UnknownArchitectureError
from engine.families import FAMILIES
from engine.gemma_config import GemmaConfig, global_rope, read_gemma
from engine.json_fields import JsonFields
from engine.latent_config import LatentConfig, read_latent
from engine.moe_config import MoeConfig
from engine.quant_config import QuantConfig, read_quantisation
from engine.rope_config import RopeConfig, read_rope

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of one decoder-only model. Sizes count elements; lengths count tokens.

    is_foreign: its layers are transformers' (engine/fallback).

    Over a latent cache the key-value heads are one, and head_dim is what it holds of a token.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rope: RopeConfig
    rms_norm_eps: float
    tie_word_embeddings: bool
    qk_norm: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    layer_windows: tuple[int | None, ...]
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    dtype: torch.dtype = torch.float32
    moe: MoeConfig | None = None
    fused_projections: bool = False
    gemma: GemmaConfig | None = None
    latent: LatentConfig | None = None
    quantisation: QuantConfig | None = None
    is_foreign: bool = False

    @classmethod
    def from_directory(cls, path: Path | str) -> "ModelConfig":
        """Read `config.json` and, for the end tokens, `generation_config.json`.

        Raises ModelError, naming the file, when one is missing, corrupt or of an unknown kind.
        """
        directory = Path(path)
        if not directory.is_dir():
            raise ModelError(directory, "is not a directory")
        return read_model(
            JsonFields.from_file(directory / "config.json"), read_generation(directory)
        )

    @property
    def sliding_window(self) -> int | None:
        """The widest bounded window of any layer; None when every layer sees the whole context."""
        return max((w for w in self.layer_windows if w is not None), default=None)

    @property
    def waits_for_device(self) -> bool:
        """Whether a step may read sizes on the host, as experts and latent attention do."""
        return self.moe is not None or self.latent is not None

    @property
    def num_parameters(self) -> int:
        """Weights of the linear layers and the token table; norms and biases are left out."""
        return self._layer_parameters() + self._table_parameters()

    def weights_bytes(self, dtype: torch.dtype, bits: int | None = None) -> int:
        """What these weights take in that dtype, or the layers' in so many bits."""
        layers = self._layer_parameters() * (bits or 8 * dtype.itemsize) // 8
        return layers + self._table_parameters() * dtype.itemsize

    def experts_of(self, layer: int) -> MoeConfig | None:
        """The experts of a layer; None when its feed-forward is dense."""
        return self.moe if self.moe is not None and layer in self.moe.sparse_layers else None

    def _layer_parameters(self) -> int:
        mlps = sum(self._mlp_parameters(layer) for layer in range(self.num_layers))
        return self.num_layers * self._attention_parameters() + mlps

    def _table_parameters(self) -> int:
        return (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size

    def _attention_parameters(self) -> int:
        if self.latent is not None:
            return self.latent.num_parameters(self.hidden_size, self.num_heads)
        return self.hidden_size * (2 * self.q_size + 2 * self.kv_size)

    def _mlp_parameters(self, layer: int) -> int:
        experts = self.experts_of(layer)
        if experts is None:
            return 3 * self.hidden_size * self.intermediate_size
        routed = experts.num_experts * (3 * experts.intermediate_size + 1)
        return self.hidden_size * (routed + 3 * experts.shared_size)

    @property
    def kv_variant(self) -> str:
        """What else than its files decides a model's keys: which factors LongRoPE takes."""
        if self.rope.kind != "longrope":
            return ""
        return "long" if self.rope.is_long(self.max_position_embeddings) else "short"

    def with_context(self, max_positions: int) -> "ModelConfig":
        """The same model for contexts of at most so many tokens."""
        limit = min(max_positions, self.max_position_embeddings)
        return replace(self, max_position_embeddings=limit)

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def rope_size(self) -> int:
        """Elements of a head that the rotary table is for."""
        return self.head_dim if self.latent is None else self.latent.rope_dim

    @property
    def out_size(self) -> int:
        """Columns of the attention's output projection."""
        return self.q_size if self.latent is None else self.num_heads * self.latent.value_dim

    @property
    def kv_parts(self) -> int:
        """Keys and values, or the latents alone."""
        return 2 if self.latent is None else 1

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of keys and values, or latents, that one token takes in all layers."""
        return self.num_layers * self.kv_parts * self.kv_size * dtype.itemsize

    def kv_shape(
        self, num_blocks: int, block_size: int = 16
    ) -> tuple[int, int, int, int, int, int]:
        """[num_layers, num_blocks, 2 or, for latents, 1, num_kv_heads, block_size, head_dim]"""
        heads = self.num_kv_heads
        return self.num_layers, num_blocks, self.kv_parts, heads, block_size, self.head_dim


def read_generation(directory: Path) -> JsonFields:
    """The fields of `generation_config.json`; none where it is absent."""
    path = directory / "generation_config.json"
    return JsonFields.from_file(path) if path.exists() else JsonFields(path, {})


def _architecture(config: JsonFields) -> str:
    for name in config.texts("architectures"):
        if name in FAMILIES:
            return name
    known = ", ".join(FAMILIES)
    raise UnknownArchitectureError(
        config.path, f"architecture {config.values.get('architectures')} is not one of {known}"
    )


def stored_dtype(config: JsonFields) -> torch.dtype:
    """The dtype of a checkpoint's weights. Raises ModelError for one that is unknown."""
    name = config.text("dtype", config.text("torch_dtype", "float32"))
    if name not in DTYPES:
        raise ModelError(config.path, f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def read_model(config: JsonFields, generation: JsonFields) -> ModelConfig:
    """The shape that these fields describe. Raises ModelError."""
    architecture = _architecture(config)
    family = FAMILIES[architecture]
    if config.text("hidden_act", "silu") != "silu":
        raise ModelError(config.path, f"hidden_act {config.text('hidden_act')!r} is not supported")
    num_layers = config.integer("num_hidden_layers")
    num_heads = config.integer("num_attention_heads")
    hidden_size = config.integer("hidden_size")
    max_positions = config.integer("max_position_embeddings", 4096)
    attention_bias = family.reads_attention_bias and config.flag("attention_bias", False)
    bos = config.token_ids("bos_token_id") or generation.token_ids("bos_token_id")
    rope = (
        global_rope(config, max_positions)
        if family.is_gemma
        else read_rope(config, max_positions, family.partial_rotary)
    )
    latent = read_latent(config, rope) if family.is_latent else None
    model = ModelConfig(
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=1 if latent else config.integer("num_key_value_heads", num_heads),
        head_dim=latent.cached_dim
        if latent
        else config.integer(
            "head_dim", 256 if family.is_gemma else max(hidden_size // num_heads, 1)
        ),
        intermediate_size=config.integer("intermediate_size"),
        vocab_size=config.integer("vocab_size"),
        rope=rope,
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        tie_word_embeddings=config.flag("tie_word_embeddings", family.is_gemma),
        qk_norm=family.qk_norm,
        qkv_bias=family.always_qkv_bias or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family.reads_mlp_bias and config.flag("mlp_bias", False),
        layer_windows=family.windows(config, num_layers),
        max_position_embeddings=max_positions,
        eos_token_ids=generation.token_ids("eos_token_id") or config.token_ids("eos_token_id"),
        bos_token_id=bos[0] if bos else None,
        dtype=stored_dtype(config),
        moe=family.experts(config, num_layers) if family.experts is not None else None,
        fused_projections=family.fused_projections,
        gemma=read_gemma(config, max_positions) if family.is_gemma else None,
        latent=latent,
        quantisation=read_quantisation(config),
    )
    _check(config, model)
    return model


def _check(config: JsonFields, model: ModelConfig) -> None:
    if model.num_heads % model.num_kv_heads:
        raise ModelError(
            config.path,
            f"{model.num_heads} attention heads cannot share {model.num_kv_heads} key-value heads",
        )
    rotary_dim = model.rope.rotary_dim(model.rope_size)
    if model.rope_size % 2 or rotary_dim % 2 or rotary_dim == 0:
        raise ModelError(
            config.path,
            f"head_dim {model.rope_size}, of which {rotary_dim} rotate, must be even for rotary "
            "encoding",
        )
    for factors in (model.rope.short_factors, model.rope.long_factors):
        if model.rope.kind == "longrope" and len(factors) != rotary_dim // 2:
            raise ModelError(
                config.path, f"longrope needs {rotary_dim // 2} factors, has {len(factors)}"
            )
