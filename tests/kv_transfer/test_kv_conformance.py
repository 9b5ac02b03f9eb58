"""What every transport does, over the real exporter and importer."""

import queue
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.device_twin import TwinMemory
from kv_transfer.errors import FailReason
from kv_transfer.transports.faulty import Faults

SOURCE = [3, 4, 5, 40, 41, 9, 8, 79, 0]
TARGET = [1, 2, 3, 4, 63, 62, 20, 21, 0]
NUM_TOKENS = 16 * 8 + 5
NUM_LAYERS = 6

SETTINGS = {
    "memory": {"transport": "memory"},
    "shm": {"transport": "shm"},
    "tcp": {"transport": "tcp"},
    "striped": {"transport": "tcp", "num_connections": 3},
    "nixl": {"transport": "nixl"},
    "ucx": {"transport": "ucx"},
    "cuda_ipc": {"transport": "cuda_ipc", "allocate": TwinMemory},
    "faulty": {"transport": "tcp", "faults": Faults(rate_bytes_s=50e6, slowdown=1.1)},
}


@pytest.fixture(params=SETTINGS)
def rig(request: pytest.FixtureRequest, make_rig: Callable):
    settings = dict(SETTINGS[request.param])
    num_connections = settings.pop("num_connections", 1)
    config = TransferConfig(piece_bytes=20_000, tcp_connections=num_connections)
    return make_rig(config=config, **settings)


def test_a_computed_prompt_arrives_whole_and_is_released(rig, until):
    handle = rig.publish_whole(1, SOURCE, NUM_TOKENS)
    result = rig.pull(handle, TARGET)
    assert (result.ok, result.error, result.reason) == (True, "", None)
    assert result.output_tokens == (1,)
    assert result.num_ready_tokens == NUM_TOKENS
    assert result.num_bytes == 9 * rig.source.layout.block_bytes
    assert result.transport == rig.transport
    assert result.transfer_s >= 0.0
    rig.assert_copied(SOURCE, TARGET)
    until(lambda: rig.released == [1])


def test_only_the_named_blocks_are_written_and_held_ones_are_skipped(rig):
    rig.target.view[:] = 0xAA
    result = rig.pull(rig.publish_whole(1, SOURCE, NUM_TOKENS), TARGET, skip=3)
    assert result.ok
    assert result.num_bytes == 6 * rig.source.layout.block_bytes
    rig.assert_copied(SOURCE, TARGET, skip=3)
    others = sorted(set(range(64)) - set(TARGET[3:]))
    assert (rig.target.view[:, others] == 0xAA).all()


def test_a_pull_that_holds_every_block_still_gets_the_tokens_and_releases(rig):
    result = rig.pull(rig.publish_whole(1, SOURCE, NUM_TOKENS), TARGET, skip=9)
    assert (result.ok, result.output_tokens, result.num_bytes) == (True, (1,), 0)
    assert rig.released == [1]


def test_a_pull_waits_for_the_watermark_and_ends_with_prefill(rig, until):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 16)
    original = rig.source.view.copy()
    rig.source.view[:, SOURCE[1:]] = 0  # not computed yet
    ticket, results = rig.begin(handle, TARGET)
    for num_tokens in (64, 128, NUM_TOKENS):
        for num_layers in range(1, NUM_LAYERS + 1):
            done = slice(0, num_layers)
            blocks = SOURCE[
                : -(-num_tokens // 16) if num_tokens == NUM_TOKENS else num_tokens // 16
            ]
            rig.source.view[done, blocks] = original[done, blocks]
            rig.exporter.advance(1, num_tokens, num_layers)
        first = num_tokens // 16 - 1
        until(lambda at=first: rig.target.view[NUM_LAYERS - 1, TARGET[at]].any())
    with pytest.raises(queue.Empty):
        results.get(timeout=0.05)
    rig.exporter.complete(1, (11, 12))
    result = results.get(timeout=20)
    assert (result.ticket, result.ok, result.output_tokens) == (ticket, True, (11, 12))
    assert np.array_equal(original[:, SOURCE], rig.target.view[:, TARGET])


def test_a_pull_may_begin_in_the_middle_of_prefill(rig):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 0)
    rig.exporter.advance(1, 96, NUM_LAYERS)
    rig.exporter.advance(1, NUM_TOKENS, 2)
    _, results = rig.begin(handle, TARGET)
    rig.exporter.advance(1, NUM_TOKENS, NUM_LAYERS)
    rig.exporter.complete(1, (5,))
    assert results.get(timeout=20).ok
    rig.assert_copied(SOURCE, TARGET)


def test_many_pulls_share_a_link(rig, until):
    handles = [rig.publish_whole(at, range(at * 8, at * 8 + 8), 128) for at in range(8)]
    begun = [rig.begin(h, range(at * 8, at * 8 + 8)) for at, h in enumerate(handles)]
    assert all(results.get(timeout=20).ok for _, results in begun)
    rig.assert_copied(range(64), range(64))
    until(lambda: sorted(rig.released) == list(range(8)))


def test_a_handle_serves_one_request_only(rig, until):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 0)
    _, first = rig.begin(handle, TARGET)
    rig.exporter.advance(1, 16, NUM_LAYERS)
    second = rig.pull(handle, TARGET)
    assert second.reason in {FailReason.ALREADY_ATTACHED}
    rig.exporter.complete(1, (1,))
    assert first.get(timeout=20).ok
    third = rig.pull(handle, TARGET)
    assert third.reason is FailReason.UNKNOWN_HANDLE
    until(lambda: rig.released == [1])


def test_a_handle_that_nobody_published_is_refused(rig):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 0)
    guessed = replace(handle, handle_id=b"0123456789abcdef")
    assert rig.pull(guessed, TARGET).reason is FailReason.UNKNOWN_HANDLE


@pytest.mark.parametrize("is_attached", [True, False])
def test_an_aborted_prefill_fails_its_pull_and_frees_the_blocks(rig, until, is_attached):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 32)
    if is_attached:
        _, results = rig.begin(handle, TARGET)
        until(lambda: rig.target.view[NUM_LAYERS - 1, TARGET[1]].any())
        rig.exporter.abort(1, "the client left")
        result = results.get(timeout=20)
        assert (result.reason, result.error) == (FailReason.PREFILL_ABORTED, "the client left")
    else:
        rig.exporter.abort(1, "the client left")
        result = rig.pull(handle, TARGET)
        assert result.reason is FailReason.UNKNOWN_HANDLE
    assert not result.ok
    until(lambda: rig.released == [1])
    rig.exporter.abort(1, "again")
    rig.exporter.advance(1, 64, 1)
    rig.exporter.complete(1, (1,))
    assert rig.released == [1]


def test_a_cancelled_pull_ends_once_and_gives_the_blocks_back(rig, until):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 32)
    ticket, results = rig.begin(handle, TARGET)
    until(lambda: rig.target.view[NUM_LAYERS - 1, TARGET[1]].any())
    rig.importer.cancel(ticket)
    result = results.get(timeout=20)
    assert (result.ok, result.reason) == (False, FailReason.CANCELLED)
    until(lambda: rig.released == [1])
    rig.importer.cancel(ticket)
    assert rig.pull(rig.publish_whole(2, SOURCE, NUM_TOKENS), TARGET).ok
    assert results.empty()


def test_nothing_is_written_after_a_cancelled_pull_has_ended(rig):
    for export_id in range(20):
        handle = rig.publish_whole(export_id, SOURCE, NUM_TOKENS)
        ticket, results = rig.begin(handle, TARGET)
        rig.importer.cancel(ticket)
        result = results.get(timeout=20)
        rig.target.view[:] = 0xBB
        other = rig.pull(rig.publish_whole(1000 + export_id, range(10, 14), 64), range(40, 44))
        assert other.ok
        untouched = sorted(set(range(64)) - set(range(40, 44)))
        assert (rig.target.view[:, untouched] == 0xBB).all()
        assert result.ok or result.reason is FailReason.CANCELLED


def test_closing_the_source_fails_what_is_under_way(rig, until):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 16)
    _, results = rig.begin(handle, TARGET)
    until(lambda: rig.target.view[NUM_LAYERS - 1, TARGET[0]].any())
    rig.exporter.close()
    result = results.get(timeout=20)
    assert not result.ok
    assert rig.released == [1]
    assert not rig.exporter.num_active


def test_closing_the_reader_releases_what_it_held(rig, until):
    handle = rig.exporter.publish(1, SOURCE, NUM_TOKENS, 16)
    _, results = rig.begin(handle, TARGET)
    until(lambda: rig.target.view[NUM_LAYERS - 1, TARGET[0]].any())
    rig.importer.close()
    assert results.get(timeout=20).reason is FailReason.CLOSED
    until(lambda: rig.released == [1])


def test_a_source_drains_when_its_readers_are_done(rig):
    handle = rig.publish_whole(1, SOURCE, NUM_TOKENS)
    assert not rig.exporter.drain(0.01)
    assert rig.pull(handle, TARGET).ok
    assert rig.exporter.drain(30.0)
