"""Encoded transfers end to end, and when a link asks for one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer import data_session
from kv_transfer.config import TransferConfig
from kv_transfer.errors import FailReason
from kv_transfer.formats import FORMATS
from kv_transfer.pace import AS_IS, Pace, candidates
from kv_transfer.transports.faulty import Faults

BLOCKS = list(range(3, 43))
TARGET = list(reversed(BLOCKS))
NUM_TOKENS = 16 * 40 - 5
SLOW, FAST = 10e6, 1e9


def pulled(pace: Pace, wire_format: str, bandwidth: float, num_bytes: int, hidden_s: float):
    """What a pull over such a link shows."""
    ratio = FORMATS[wire_format].ratio if wire_format != AS_IS else 1.0
    exposed_s = max(0.0, num_bytes * ratio / bandwidth - hidden_s)
    exposed_bytes = int(exposed_s * bandwidth / ratio)
    pace.record(wire_format, num_bytes, exposed_bytes, exposed_s)


def test_nothing_is_encoded_before_anything_is_known():
    assert Pace().choose(1 << 30, ["packed", "fp8"]) == AS_IS


def test_a_slow_link_packs_and_a_fast_one_does_not():
    slow, fast = Pace(), Pace()
    pulled(slow, AS_IS, SLOW, 100 << 20, 0.0)
    pulled(fast, AS_IS, FAST, 100 << 20, 0.0)
    assert slow.choose(100 << 20, ["packed"]) == "packed"
    assert slow.choose(100 << 20, ["packed", "fp8"]) == "fp8"
    assert slow.choose(100 << 20, []) == AS_IS
    assert fast.choose(100 << 20, ["packed", "fp8"]) == AS_IS


def test_what_prefill_hides_is_not_encoded():
    pace = Pace()
    size = 100 << 20
    pulled(pace, AS_IS, SLOW, size, hidden_s=size / SLOW - 0.02)
    assert pace.choose(size, ["packed", "fp8"]) == AS_IS


def test_a_link_that_has_become_fast_is_read_as_it_is_again():
    pace, chosen = Pace(), []
    pulled(pace, AS_IS, SLOW, 100 << 20, 0.0)
    for _ in range(40):
        chosen.append(pace.choose(100 << 20, ["packed"]))
        pulled(pace, chosen[-1], 100 * FAST, 100 << 20, 0.2)
    assert chosen[0] == "packed"
    assert chosen[-1] == AS_IS


@given(
    bandwidth=st.floats(1e6, 1e10),
    num_bytes=st.integers(1 << 16, 1 << 30),
    hidden=st.floats(0, 10),
)
def test_the_choice_is_the_one_that_exposes_least(bandwidth, num_bytes, hidden):
    pace = Pace()
    for _ in range(3):
        pulled(pace, AS_IS, bandwidth, num_bytes, hidden)

    def exposed(name):
        chosen = FORMATS.get(name)
        ratio, cost = (chosen.ratio, chosen.cost_s_per_byte) if chosen else (1.0, 0.0)
        return max(0.0, num_bytes * ratio / bandwidth - hidden) + num_bytes * cost

    name = pace.choose(num_bytes, ["packed", "fp8"])
    if pace.bandwidth_bytes_s is not None:
        least = min(exposed(other) for other in (AS_IS, "packed", "fp8"))
        assert exposed(name) <= max(least * 1.12, least + 1e-3)


@pytest.mark.parametrize(
    ("setting", "dtype", "want"),
    [
        ("as_is", "bfloat16", ()),
        ("auto", "bfloat16", ("packed",)),
        ("auto_fp8", "bfloat16", ("packed", "fp8")),
        ("auto_fp8", "float16", ("fp8",)),
        ("auto_fp8", "float32", ()),
        ("fp8", "bfloat16", ("fp8",)),
    ],
)
def test_the_setting_and_the_dtype_say_what_may_be_asked_for(setting, dtype, want):
    assert candidates(setting, dtype) == want


def test_a_setting_that_does_not_exist_is_a_key_error():
    with pytest.raises(KeyError):
        candidates("zip", "bfloat16")


def fill_normal(rig) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(rig.source.view.size // 2)
    raw = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    rig.source.view[:] = raw.reshape(rig.source.view.shape)
    return rig.source.view[:, BLOCKS]


def as_float(raw: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_an_encoded_pull_arrives_behind_the_watermark(make_rig, name):
    config = TransferConfig(wire_format=name, piece_bytes=20_000, verify_share=1.0)
    rig = make_rig(transport="tcp", config=config, dtype="bfloat16")
    want = fill_normal(rig)
    rig.target.view[:] = 0xAA
    handle = rig.exporter.publish(1, BLOCKS, NUM_TOKENS, 0)
    _, results = rig.begin(handle, TARGET, skip=2)
    for num_tokens in (100, 400, NUM_TOKENS):
        for num_layers in range(1, 7):
            rig.exporter.advance(1, num_tokens, num_layers)
    rig.exporter.complete(1, (4,))
    result = results.get(timeout=20)
    assert (result.ok, result.error, result.wire_format) == (True, "", name)
    assert result.num_bytes == 38 * rig.source.layout.block_bytes
    got = rig.target.view[:, TARGET]
    if FORMATS[name].is_lossless:
        assert np.array_equal(got[:, 2:], want[:, 2:])
        assert result.num_verified == 6 * 38
    else:
        error = np.abs(as_float(got[:, 2:]) - as_float(want[:, 2:]))
        assert error.max() < np.abs(as_float(want)).max() / 15
        assert result.num_verified == 0
    others = sorted(set(range(64)) - set(TARGET[2:]))
    assert (rig.target.view[:, others] == 0xAA).all()


def test_an_encoded_piece_that_is_changed_on_its_way_is_corrupt(make_rig, monkeypatch, until):
    def damaged(body):
        sent = seal(body)
        sent[sent.size // 2] ^= 4
        return sent

    seal = data_session.seal
    monkeypatch.setattr(data_session, "seal", damaged)
    config = TransferConfig(wire_format="fp8")
    rig = make_rig(transport="tcp", config=config, dtype="bfloat16")
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), TARGET)
    assert (result.ok, result.reason) == (False, FailReason.CORRUPT)
    until(lambda: rig.released == [1])
    assert not rig.target.view.any()


@pytest.mark.parametrize("transport", ["shm", "memory"])
def test_shared_memory_is_never_encoded(make_rig, transport):
    config = TransferConfig(wire_format="fp8")
    rig = make_rig(transport=transport, config=config, dtype="bfloat16")
    result = rig.pull(rig.publish_whole(1, BLOCKS, NUM_TOKENS), TARGET)
    assert (result.ok, result.wire_format) == (True, AS_IS)
    rig.assert_copied(BLOCKS, TARGET)


def test_a_slow_link_is_packed_from_its_second_pull_on(make_rig):
    """The first one shows how slow it is."""
    rig = make_rig(transport="tcp", dtype="bfloat16", faults=Faults(rate_bytes_s=2e6))
    fill_normal(rig)
    formats = []
    for export_id in range(3):
        rig.target.view[:] = 0
        result = rig.pull(rig.publish_whole(export_id, BLOCKS, NUM_TOKENS), TARGET)
        assert result.ok
        rig.assert_copied(BLOCKS, TARGET)
        formats.append(result.wire_format)
    assert formats == [AS_IS, "packed", "packed"]
