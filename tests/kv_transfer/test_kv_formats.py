"""Wire formats: no bit lost by the one, no more than e4m3 loses by the other."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.formats import FORMATS, decode_fp8, decode_packed, encode_fp8, encode_packed
from wire.kv import KVLayout

LAYOUT = KVLayout(4, 8, 2, 16, 32, "bfloat16")


def normal_kv(num_regions: int = 8, dtype: torch.dtype = torch.bfloat16) -> np.ndarray:
    """Regions as attention makes them: each head has its own scale."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_regions, 2, LAYOUT.num_kv_heads, LAYOUT.block_size, LAYOUT.head_dim)
    values = torch.randn(shape, generator=generator)
    values *= torch.exp(torch.randn(shape[:3], generator=generator))[..., None, None]
    return values.to(dtype).view(torch.uint8).numpy().reshape(-1)


@given(st.binary(min_size=4, max_size=400), st.integers(1, 20))
def test_packing_loses_no_bit_whatever_the_bits_are(data, repeats):
    raw = np.frombuffer(data[: len(data) // 4 * 4] * repeats, np.uint8)
    packed = encode_packed(raw, LAYOUT)
    assert np.array_equal(decode_packed(packed, LAYOUT, raw.size), raw)


def test_packing_takes_a_quarter_off():
    raw = normal_kv()
    assert encode_packed(raw, LAYOUT).size < 0.77 * raw.size


@given(st.binary(max_size=200), st.sampled_from([4, 16, 64]))
def test_bytes_that_nobody_packed_are_a_value_error_or_bytes(data, num_bytes):
    with contextlib.suppress(ValueError):
        assert decode_packed(np.frombuffer(data, np.uint8), LAYOUT, num_bytes).size == num_bytes


@given(st.binary(max_size=64), st.integers(0, 30))
def test_a_packed_piece_that_is_cut_or_changed_in_length_is_refused(data, cut):
    raw = normal_kv(1)
    packed = encode_packed(raw, LAYOUT)
    changed = np.concatenate((packed[: packed.size - cut], np.frombuffer(data, np.uint8)))
    if changed.size != packed.size:
        with pytest.raises(ValueError):
            decode_packed(changed, LAYOUT, raw.size)


def test_e4m3_is_what_torch_makes_of_halves():
    halves = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    halves = halves[halves.isfinite() & (halves.abs() <= 448)]
    block = LAYOUT.block_size * LAYOUT.head_dim
    layout = KVLayout(1, 1, 1, 16, 32, "float16")
    rest = -halves.numel() % block
    values = torch.cat((halves, torch.zeros(rest, dtype=torch.float16))).view(-1, block)
    values[:, 0] = 448.0  # so that every scale is 1
    sent = encode_fp8(values.view(torch.uint8).numpy().reshape(-1), layout)
    scales = sent[: 4 * len(values)].view(np.float32)
    assert (scales == 1.0).all()
    want = values.to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(-1)
    assert np.array_equal(sent[4 * len(values) :], want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fp8_is_within_a_sixteenth_of_each_value_and_half_the_bytes(dtype):
    name = str(dtype).removeprefix("torch.")
    layout = KVLayout(4, 8, 2, 16, 32, name)
    raw = normal_kv(dtype=dtype)
    sent = encode_fp8(raw, layout)
    assert sent.size < 0.51 * raw.size
    back = torch.from_numpy(decode_fp8(sent, layout, raw.size).copy()).view(dtype).float()
    values = torch.from_numpy(raw).view(dtype).float()
    block = layout.block_size * layout.head_dim
    peaks = values.view(-1, block).abs().amax(1, keepdim=True)
    error = (back - values).view(-1, block).abs()
    assert (error <= values.view(-1, block).abs() / 15 + peaks * 2**-9 / 448).all()
    cosine = torch.nn.functional.cosine_similarity(back, values, dim=0)
    assert cosine > 0.999


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), 0.0, 3e38, 1e-38, 1e-40]
)
def test_fp8_of_odd_values_is_finite_or_nan_and_spoils_no_other_head(value):
    values = torch.ones(2, LAYOUT.block_size * LAYOUT.head_dim, dtype=torch.bfloat16)
    values[0, 5] = value
    raw = values.view(torch.uint8).numpy().reshape(-1)
    back = decode_fp8(encode_fp8(raw, LAYOUT), LAYOUT, raw.size)
    got = torch.from_numpy(back.copy()).view(torch.bfloat16).view(2, -1)
    assert torch.equal(got[1], values[1])
    assert not got.isinf().any()
    assert bool(got[0, 5].isnan()) == (value != value)


@given(st.binary(max_size=100))
def test_bytes_that_nobody_made_fp8_of_are_refused(data):
    with pytest.raises(ValueError):
        decode_fp8(np.frombuffer(data, np.uint8), LAYOUT, LAYOUT.region_bytes)


@given(st.binary(min_size=1024, max_size=1024), st.sampled_from(["bfloat16", "float16"]))
def test_fp8_takes_any_bits(data, dtype):
    layout = KVLayout(1, 1, 1, 16, 16, dtype)
    raw = np.frombuffer(data, np.uint8)
    back = decode_fp8(encode_fp8(raw, layout), layout, raw.size)
    assert back.size == raw.size


def test_formats_keep_what_they_say_of_themselves():
    raw = normal_kv()
    for wire_format in FORMATS.values():
        sent = wire_format.encode(raw, LAYOUT)
        assert sent.size == pytest.approx(wire_format.ratio * raw.size, rel=0.05)
        back = wire_format.decode(sent, LAYOUT, raw.size)
        assert np.array_equal(back, raw) == wire_format.is_lossless
