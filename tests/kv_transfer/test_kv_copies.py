"""The copy of many regions: the same bytes whether it is compiled or not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.copy_regions import (
    by_memmove,
    compiled,
    gather_by_memmove,
    load_copy_regions,
    load_gather,
)
from runtime.compiled import BuildError

POOL_BYTES = 1 << 15


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Copies that do not overlap in the target, of any size and alignment."""
    rows, at = [], draw(st.integers(0, 100))
    for size in draw(st.lists(st.integers(1, 9000), max_size=4)):
        if at + size <= POOL_BYTES:
            rows.append((draw(st.integers(0, POOL_BYTES - size)), at, size))
        at += size + draw(st.integers(0, 70))
    return rows


@given(tables())
def test_the_compiled_copy_moves_what_memmove_moves(rows):
    table = np.array(rows, np.int64).reshape(-1, 3)
    source = np.random.default_rng(1).integers(0, 256, POOL_BYTES, dtype=np.uint8)
    plain, fast = (np.full(POOL_BYTES, 7, np.uint8) for _ in range(2))
    by_memmove(plain.ctypes.data, source.ctypes.data, table)
    compiled()(fast.ctypes.data, source.ctypes.data, table)
    assert np.array_equal(plain, fast)
    for start, to, size in rows:
        assert np.array_equal(fast[to : to + size], source[start : start + size])


@given(tables())
def test_what_is_gathered_lies_one_behind_the_other(rows):
    table = np.array([(start, size) for start, _, size in rows], np.int64).reshape(-1, 2)
    source = np.random.default_rng(1).integers(0, 256, POOL_BYTES, dtype=np.uint8)
    plain, fast = (np.full(2 * POOL_BYTES, 7, np.uint8) for _ in range(2))
    gather_by_memmove(plain.ctypes.data, source.ctypes.data, table)
    load_gather()(fast.ctypes.data, source.ctypes.data, table)
    assert np.array_equal(plain, fast)
    wanted = b"".join(source[start : start + size].tobytes() for start, size in table.tolist())
    assert fast.tobytes().startswith(wanted) and set(fast[len(wanted) :].tolist()) <= {7}


def test_a_host_without_a_compiler_copies_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="no compiler"):
        compiled(tmp_path)
    assert load_copy_regions(tmp_path) is by_memmove
    assert load_gather(tmp_path) is gather_by_memmove
