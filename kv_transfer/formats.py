"""Wire formats: how regions are written on a slow link. A codec works on whole regions.

packed: bfloat16 without loss. Sign and mantissa stay a byte; the exponent becomes a nibble that
    points into the piece's fifteen commonest exponents, or says that it follows in full.
fp8: e4m3 with a scale for each (block, K or V, head), opt-in: it loses precision.

Numpy only: neither this process's torch nor a GPU is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import xxhash

from wire.kv import KVLayout

Bytes = npt.NDArray[np.uint8]

E4M3_MAX = 448.0
SEAL_BYTES = 8
_ESCAPE = 15
_PALETTE_BYTES = 16
_LEAST_SCALE = np.float32(2.0**-126)


@dataclass(frozen=True, slots=True)
class WireFormat:
    """A codec. ratio: bytes on the wire for a byte of KV, about. cost_s_per_byte: of both sides
    together, as measured on one core.

    encode: bytes of whole regions -> what is sent. decode: back, given the number of bytes that
    it has to become; raises ValueError for bytes that no encoder made.
    """

    name: str
    is_lossless: bool
    dtypes: tuple[str, ...]
    ratio: float
    cost_s_per_byte: float
    encode: Callable[[Bytes, KVLayout], Bytes]
    decode: Callable[[Bytes, KVLayout, int], Bytes]


def encode_packed(regions: Bytes, layout: KVLayout) -> Bytes:
    """Palette, number of escapes, nibbles, sign and mantissa, escaped exponents."""
    values = regions.view(np.uint16)
    exponents = (values >> 7).astype(np.uint8)
    rest = ((values >> 8).astype(np.uint8) & 0x80) | (values.astype(np.uint8) & 0x7F)
    commonest = np.argsort(np.bincount(exponents, minlength=256))[::-1][:_ESCAPE]
    palette = np.zeros(_PALETTE_BYTES, np.uint8)
    palette[:_ESCAPE] = commonest
    codes_of = np.full(256, _ESCAPE, np.uint8)
    codes_of[commonest] = np.arange(_ESCAPE, dtype=np.uint8)
    codes = codes_of[exponents]
    escaped = exponents[codes == _ESCAPE]
    nibbles = codes[0::2] | (codes[1::2] << 4)
    count = np.array([escaped.size], "<u8").view(np.uint8)
    return np.concatenate((palette, count, nibbles, rest, escaped))


def decode_packed(sent: Bytes, layout: KVLayout, num_bytes: int) -> Bytes:
    """The inverse of `encode_packed`."""
    num_values = num_bytes // 2
    fixed = _PALETTE_BYTES + 8 + num_values // 2 + num_values
    if sent.size < fixed or sent.size != fixed + int(sent[16:24].copy().view("<u8")[0]):
        raise ValueError(f"{sent.size} bytes are not {num_bytes} bytes, packed")
    nibbles, rest, escaped = np.split(sent[24:], (num_values // 2, num_values // 2 + num_values))
    codes = np.empty(num_values, np.uint8)
    codes[0::2] = nibbles & 15
    codes[1::2] = nibbles >> 4
    exponents = sent[:_PALETTE_BYTES][codes].astype(np.uint16)
    is_escaped = codes == _ESCAPE
    if np.count_nonzero(is_escaped) != escaped.size:
        raise ValueError("a packed piece with another number of escapes")
    exponents[is_escaped] = escaped
    values = exponents << 7
    values |= (rest & 0x80).astype(np.uint16) << 8
    values |= rest & 0x7F
    return values.view(np.uint8)


def encode_fp8(regions: Bytes, layout: KVLayout) -> Bytes:
    """Scales as float32, then a byte for each value. What is not finite becomes NaN."""
    values = _as_float32(regions, layout.dtype).reshape(-1, layout.block_size * layout.head_dim)
    peaks = np.abs(values).max(axis=1)
    if not np.isfinite(peaks).all():
        peaks = np.max(np.abs(values), axis=1, initial=0.0, where=np.isfinite(values))
    scales = np.maximum(peaks / np.float32(E4M3_MAX), _LEAST_SCALE)
    with np.errstate(over="ignore", invalid="ignore"):
        halves = (values / scales[:, None]).astype(np.float16)
    coded = _e4m3_of_half()[halves.view(np.uint16)]
    return np.concatenate((scales.view(np.uint8), coded.reshape(-1)))


def decode_fp8(sent: Bytes, layout: KVLayout, num_bytes: int) -> Bytes:
    """The nearest values of the layout's dtype."""
    num_values = num_bytes // layout.itemsize_bytes
    num_scales = num_values // (layout.block_size * layout.head_dim)
    if sent.size != 4 * num_scales + num_values:
        raise ValueError(f"{sent.size} bytes are not {num_bytes} bytes in fp8")
    scales = sent[: 4 * num_scales].copy().view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values = _float_of_e4m3()[sent[4 * num_scales :]].reshape(num_scales, -1) * scales[:, None]
    return _from_float32(values.reshape(-1), layout.dtype)


FORMATS: Mapping[str, WireFormat] = MappingProxyType(
    {
        "packed": WireFormat(
            "packed", True, ("bfloat16",), 0.76, 1 / 130e6, encode_packed, decode_packed
        ),
        "fp8": WireFormat(
            "fp8", False, ("bfloat16", "float16"), 0.51, 1 / 200e6, encode_fp8, decode_fp8
        ),
    }
)


def float_of_e4m3(code: int) -> float:
    """The value of an e4m3 byte (the variant without infinities)."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, (code >> 3) & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return float(sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def most_bytes(num_bytes: int) -> int:
    """What `num_bytes` of regions may become; a longer piece is no encoder's."""
    return num_bytes + num_bytes // 2 + 64


def seal(body: Bytes) -> Bytes:
    """What is sent: a digest of the encoded bytes, and these."""
    digest = np.array([xxhash.xxh3_64_intdigest(body.data)], "<u8").view(np.uint8)
    return np.concatenate((digest, body))


def unseal(sent: Bytes) -> Bytes:
    """The encoded bytes. Raises ValueError when they are not what was sealed."""
    body = sent[SEAL_BYTES:]
    if sent.size < SEAL_BYTES or int(sent[:SEAL_BYTES].copy().view("<u8")[0]) != (
        xxhash.xxh3_64_intdigest(body.data)
    ):
        raise ValueError("an encoded piece was changed on its way")
    return body


@cache
def _float_of_e4m3() -> npt.NDArray[np.float32]:
    return np.array([float_of_e4m3(code) for code in range(256)], np.float32)


@cache
def _e4m3_of_half() -> Bytes:
    """By the bits of a half: the nearest e4m3 byte, ties to even; beyond the range the largest."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    is_nan = np.isnan(halves)
    sizes = np.minimum(np.where(is_nan, 0.0, np.abs(halves)), E4M3_MAX)
    steps = np.exp2(np.floor(np.log2(np.maximum(sizes, 2.0**-6))) - 3.0)
    nearest = np.minimum(np.rint(sizes / steps) * steps, E4M3_MAX)
    codes: Bytes = np.searchsorted(_float_of_e4m3()[:127], nearest).astype(np.uint8)
    codes[is_nan] = 127
    codes[np.signbit(halves)] |= 0x80
    return codes


def _as_float32(raw: Bytes, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "bfloat16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float16 if dtype == "float16" else np.float32).astype(np.float32)


def _from_float32(values: npt.NDArray[np.float32], dtype: str) -> Bytes:
    if dtype == "float16":
        return values.astype(np.float16).view(np.uint8)
    bits = values.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even; a NaN stays one
    return (bits >> 16).astype(np.uint16).view(np.uint8)
