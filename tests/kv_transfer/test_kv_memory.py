"""The pool's memory: shared without a name, read-only for others, gone when closed."""

import fcntl
import mmap
import os

import pytest

from kv_transfer.memory import KVMemory, host_id

NUM_BYTES = 1 << 20


@pytest.mark.parametrize("shared", [True, False])
def test_memory_is_zeroed_writable_and_closes_twice(shared):
    memory = KVMemory.allocate(NUM_BYTES, shared)
    assert (memory.num_bytes, memory.is_shared) == (NUM_BYTES, shared)
    assert not any(memory.buffer[:4096])
    memory.buffer[NUM_BYTES - 1] = 7
    memory.close()
    memory.close()


def test_another_mapping_sees_what_is_written_and_cannot_write():
    memory = KVMemory.allocate(NUM_BYTES)
    fd = memory.open_read_only()
    mapped = KVMemory.map_read_only(fd, NUM_BYTES)
    memory.buffer[12345] = 99
    assert mapped.buffer[12345] == 99
    assert mapped.buffer.readonly
    with pytest.raises(PermissionError):
        mmap.mmap(fd, NUM_BYTES)
    os.close(fd)
    mapped.close()
    memory.close()


def test_nobody_can_make_a_reader_fault_by_shrinking_the_memory():
    memory = KVMemory.allocate(NUM_BYTES)
    fd = memory.open_read_only()
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK
    assert seals & fcntl.F_SEAL_GROW
    with pytest.raises(OSError):
        os.truncate(f"/proc/self/fd/{fd}", 4096)
    os.close(fd)
    memory.close()


def test_memory_that_is_too_small_is_not_mapped():
    memory = KVMemory.allocate(NUM_BYTES)
    fd = memory.open_read_only()
    with pytest.raises(ValueError, match="1048577 expected"):
        KVMemory.map_read_only(fd, NUM_BYTES + 1)
    os.close(fd)
    memory.close()


def test_a_view_that_is_still_used_outlives_close():
    memory = KVMemory.allocate(NUM_BYTES)
    view = memory.buffer[:16]
    memory.close()
    view[0] = 1
    assert view[0] == 1


def test_the_host_id_is_the_same_every_time():
    assert host_id() == host_id()
