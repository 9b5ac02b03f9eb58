"""How the weights of a checkpoint are quantised, read from config.json."""

from dataclasses import dataclass
from enum import Enum

from engine.errors import ModelError
from engine.json_fields import JsonFields

KNOWN = ("fp8", "fbgemm_fp8", "compressed-tensors", "awq", "gptq")


class Packing(Enum):
    """What a quantised weight's tensors are."""

    FP8 = "fp8"  # e4m3 values; a scale for all of them, each output, or each block
    AWQ = "awq"  # int4, eight outputs a word; a scale and a zero point for each group of inputs
    GPTQ = "gptq"  # int4 or int8, 32 bits of inputs a word; else as AWQ


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """The format of a checkpoint's quantised weights. Which are quantised, its tensors tell."""

    packing: Packing
    bits: int = 8
    group_size: int = 0  # inputs that share an integer's scale; 0: all
    block: tuple[int, int] | None = None  # outputs and inputs that share a scale of fp8 values
    zero_offset: int = 0  # how much more a zero point is than what is stored


def read_quantisation(config: JsonFields) -> QuantConfig | None:
    """The object `quantization_config`; None where there is none.

    Raises ModelError for a method or a variant of it that the engine does not read.
    """
    fields = config.nested("quantization_config")
    if not fields.values:
        return None
    method = fields.text("quant_method")
    if method not in KNOWN:
        known = ", ".join(KNOWN)
        raise ModelError(config.path, f"quant_method {method!r} is not supported (known: {known})")
    if method == "compressed-tensors":
        return _compressed(fields)
    if method == "awq":
        return _awq(fields)
    if method == "gptq":
        return _gptq(fields)
    return QuantConfig(Packing.FP8, block=_block(fields, "weight_block_size"))


def _block(fields: JsonFields, name: str) -> tuple[int, int] | None:
    sizes = fields.indices(name)
    if not sizes:
        return None
    if len(sizes) != 2 or min(sizes) < 1:
        raise ModelError(fields.path, f"field {name!r} must be two positive integers")
    return sizes[0], sizes[1]


def _compressed(fields: JsonFields) -> QuantConfig:
    """llm-compressor's fp8: one group of layers, whose weights are 8-bit floats."""
    groups = fields.nested("config_groups")
    if len(groups.values) != 1:
        raise ModelError(
            fields.path, f"{len(groups.values)} config_groups are not supported, one is"
        )
    weights = groups.nested(next(iter(groups.values))).nested("weights")
    kind, bits = weights.text("type"), weights.integer("num_bits")
    if (kind, bits) != ("float", 8):
        raise ModelError(fields.path, f"compressed-tensors weights of {bits}-bit {kind}s")
    return QuantConfig(Packing.FP8, block=_block(weights, "block_structure"))


def _awq(fields: JsonFields) -> QuantConfig:
    version = fields.text("version", "gemm").lower()
    if version != "gemm":
        raise ModelError(fields.path, f"awq version {version!r} is not supported, 'gemm' is")
    return QuantConfig(
        Packing.AWQ, _bits(fields, "w_bit", (4,)), _group_size(fields, "q_group_size")
    )


def _gptq(fields: JsonFields) -> QuantConfig:
    stored = fields.text("checkpoint_format", "gptq")
    if stored not in ("gptq", "gptq_v2"):
        raise ModelError(fields.path, f"gptq checkpoint_format {stored!r} is not supported")
    return QuantConfig(
        Packing.GPTQ,
        _bits(fields, "w_bit", (4, 8)),
        _group_size(fields, "q_group_size"),
        zero_offset=int(stored == "gptq"),
    )


def _bits(fields: JsonFields, old_name: str, known: tuple[int, ...]) -> int:
    bits = fields.integer("bits" if "bits" in fields else old_name)
    if bits not in known:
        raise ModelError(fields.path, f"integers of {bits} bits are not supported (known: {known})")
    return bits


def _group_size(fields: JsonFields, old_name: str) -> int:
    """0 for one group, which files write as -1."""
    name = "group_size" if "group_size" in fields else old_name
    if fields.values.get(name) == -1:
        return 0
    return fields.integer(name, 128)
