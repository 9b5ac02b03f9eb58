"""Pulls between pools of different shapes, over every transport that maps."""

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.errors import FailReason
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.transports.memory import MemoryHub
from kv_transfer.transports.registry import TRANSPORTS
from runtime.clock import SystemClock
from wire.kv import KVLayout

SECRET = b"a cluster's secret"
GQA = KVLayout(3, 64, 4, 16, 8, "bfloat16")
MLA = KVLayout(3, 64, 1, 16, 24, "bfloat16", is_latent=True)
NUM_TOKENS = 150


def share(layout: KVLayout, first: int, count: int) -> KVLayout:
    return replace(layout, num_kv_heads=count, first_kv_head=first, total_kv_heads=4)


@dataclass
class Pools:
    """Sources of any shapes and one reader, in one process."""

    transport: str
    make_side: Callable
    sources: list[tuple] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    hub: MemoryHub = field(default_factory=MemoryHub)

    def __post_init__(self) -> None:
        self.config = TransferConfig(
            transport=self.transport, piece_bytes=5_000, verify_share=1.0, slack_s=5.0
        )

    def add_source(self, layout: KVLayout) -> Exporter:
        side = self.make_side(layout, seed=len(self.sources))
        exporter = Exporter(
            layout,
            side.memory,
            f"w{len(self.sources)}",
            1,
            SystemClock(),
            SECRET,
            self.config,
            on_released=self.released.append,
            hub=self.hub,
        )
        exporter.start("127.0.0.1")
        self.sources.append((side, exporter))
        return exporter

    def set_reader(self, layout: KVLayout) -> None:
        self.target = self.make_side(layout, seed=99)
        self.importer = Importer(
            layout,
            self.target.memory,
            SystemClock(),
            SECRET,
            self.config,
            transports={**TRANSPORTS, "memory": self.hub.open},
        )

    def close(self) -> None:
        self.importer.close()
        self.importer.check_integrity()
        for side, exporter in self.sources:
            exporter.check_integrity()
            exporter.close()
            side.close()
        self.target.close()


@pytest.fixture(params=["memory", "shm", "tcp", "nixl", "ucx"])
def pools(request, make_side: Callable, nothing_is_left: None) -> Iterator[Pools]:
    made = Pools(request.param, make_side)
    yield made
    made.close()


def dense(side, blocks: list[int]) -> np.ndarray:
    """The prompt's rows: [layers, parts, heads, tokens, row_bytes]."""
    layout = side.layout
    shape = (layout.num_layers, layout.num_blocks, layout.num_parts, layout.num_kv_heads)
    view = side.view.reshape(*shape, layout.block_size, layout.row_bytes)[:, blocks]
    order = view.transpose(0, 2, 3, 1, 4, 5)  # [layers, parts, heads, blocks, tokens, row]
    return order.reshape(*order.shape[:3], -1, layout.row_bytes)[..., :NUM_TOKENS, :]


def blocks_of(layout: KVLayout, seed: int) -> list[int]:
    count = -(-NUM_TOKENS // layout.block_size)
    return np.random.default_rng(seed).permutation(layout.num_blocks)[:count].tolist()


PAIRS = {
    "bigger blocks at the source": (replace(GQA, block_size=32), GQA),
    "bigger blocks at the reader": (GQA, replace(GQA, block_size=64)),
    "blocks that do not divide": (replace(GQA, block_size=24), GQA),
    "one head of four": (GQA, share(GQA, 2, 1)),
    "two heads and other blocks": (replace(GQA, block_size=8), share(GQA, 1, 2)),
    "a wider share": (share(GQA, 1, 3), share(GQA, 2, 2)),
    "latent": (replace(MLA, block_size=64), MLA),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("num_held", [0, 2])
def test_a_prompt_arrives_in_the_readers_shape(
    pools: Pools, pair: str, num_held: int, until: Callable
):
    source_layout, target_layout = PAIRS[pair]
    exporter = pools.add_source(source_layout)
    pools.set_reader(target_layout)
    before = pools.target.view.copy()
    source_blocks, target_blocks = blocks_of(source_layout, 1), blocks_of(target_layout, 2)
    num_held = min(num_held, len(target_blocks))
    handle = exporter.publish(1, source_blocks, NUM_TOKENS, 40)
    results: queue.Queue = queue.Queue()
    pools.importer.pull(handle, target_blocks, num_held, results.put)
    for num_tokens in (70, 110, NUM_TOKENS):
        for num_layers in range(1, 4):
            exporter.advance(1, num_tokens, num_layers)
    exporter.complete(1, (5,))
    result = results.get(timeout=20)
    assert (result.ok, result.error, result.output_tokens) == (True, "", (5,))
    first = target_layout.first_kv_head - source_layout.first_kv_head
    want = dense(pools.sources[0][0], source_blocks)
    want = want[:, :, first : first + target_layout.num_kv_heads]
    got = dense(pools.target, target_blocks)
    skip = num_held * target_layout.block_size
    assert np.array_equal(want[..., skip:, :], got[..., skip:, :])
    untouched = sorted(set(range(64)) - set(target_blocks[num_held:]))
    assert np.array_equal(before[:, untouched], pools.target.view[:, untouched])
    assert result.num_verified > 0
    until(lambda: pools.released == [1])


def test_shares_of_the_heads_come_together_from_several_sources(pools: Pools, until: Callable):
    layouts = [share(replace(GQA, block_size=8), 0, 2), share(GQA, 2, 1), share(GQA, 3, 1)]
    handles, want = [], []
    for number, layout in enumerate(layouts):
        exporter = pools.add_source(layout)
        blocks = blocks_of(layout, number)
        handles.append(exporter.publish(number, blocks, NUM_TOKENS, NUM_TOKENS))
        exporter.complete(number, (7,))
        want.append(dense(pools.sources[number][0], blocks))
    pools.set_reader(GQA)
    target_blocks = blocks_of(GQA, 9)
    results: queue.Queue = queue.Queue()
    ticket = pools.importer.pull_shards(handles, target_blocks, 1, results.put)
    result = results.get(timeout=20)
    assert (result.ok, result.error, result.ticket) == (True, "", ticket)
    assert result.output_tokens == (7,)
    assert result.kv_heads == range(4)
    got = dense(pools.target, target_blocks)
    assert np.array_equal(np.concatenate(want, axis=2)[..., 16:, :], got[..., 16:, :])
    until(lambda: sorted(pools.released) == [0, 1, 2])
    assert results.empty()


def test_a_source_without_some_of_the_heads_is_refused_and_gets_its_blocks_back(
    pools: Pools, until: Callable
):
    exporter = pools.add_source(share(GQA, 0, 2))
    pools.set_reader(GQA)
    handle = exporter.publish(1, blocks_of(GQA, 1), NUM_TOKENS, NUM_TOKENS)
    results: queue.Queue = queue.Queue()
    pools.importer.pull(handle, blocks_of(GQA, 2), 0, results.put)
    result = results.get(timeout=20)
    assert (result.ok, result.reason) == (False, FailReason.LAYOUT_MISMATCH)
    assert "lacks KV heads" in result.error
    until(lambda: pools.released == [1])


def test_sources_that_leave_a_head_out_fail_together(pools: Pools, until: Callable):
    handles = []
    for number, layout in enumerate([share(GQA, 0, 2), share(GQA, 3, 1)]):
        exporter = pools.add_source(layout)
        blocks = blocks_of(layout, number)
        handles.append(exporter.publish(number, blocks, NUM_TOKENS, NUM_TOKENS))
        exporter.complete(number, (7,))
    pools.set_reader(GQA)
    results: queue.Queue = queue.Queue()
    pools.importer.pull_shards(handles, blocks_of(GQA, 9), 0, results.put)
    result = results.get(timeout=20)
    assert (result.ok, result.reason) == (False, FailReason.LAYOUT_MISMATCH)
    assert "[2]" in result.error


@pytest.mark.parametrize("how", ["a source fails", "the caller cancels"])
def test_one_part_that_ends_early_ends_them_all(pools: Pools, until: Callable, how: str):
    handles = []
    for number, first in enumerate((0, 2)):
        layout = share(GQA, first, 2)
        exporter = pools.add_source(layout)
        handles.append(exporter.publish(number, blocks_of(layout, number), NUM_TOKENS, 0))
    pools.set_reader(GQA)
    results: queue.Queue = queue.Queue()
    ticket = pools.importer.pull_shards(handles, blocks_of(GQA, 9), 0, results.put)
    if how == "a source fails":
        pools.sources[1][1].abort(1, "out of memory")
    else:
        pools.importer.cancel(ticket)
    result = results.get(timeout=20)
    assert not result.ok
    assert result.reason is not None
    until(lambda: sorted(pools.released) == [0, 1])
    assert results.empty()


@pytest.mark.parametrize("other", [replace(GQA, head_dim=16), replace(GQA, dtype="float32"), MLA])
def test_another_model_is_refused(pools: Pools, other: KVLayout):
    exporter = pools.add_source(other)
    pools.set_reader(GQA)
    handle = exporter.publish(1, blocks_of(other, 1), NUM_TOKENS, NUM_TOKENS)
    results: queue.Queue = queue.Queue()
    pools.importer.pull(handle, blocks_of(GQA, 2), 0, results.put)
    assert results.get(timeout=20).reason is FailReason.LAYOUT_MISMATCH
