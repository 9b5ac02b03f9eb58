"""What a slow link leaves exposed: a prefill that only advances a watermark, a throttled lane."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

from baton.bench.row import Row, rows_or_reason
from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.pull import PullResult
from kv_transfer.transports.faulty import Faults, with_faults
from kv_transfer.transports.registry import TRANSPORTS
from runtime.clock import SystemClock
from wire.kv import KVLayout

# 64 MiB: 2 chunks of 4 layer groups, 8 MiB a group.
LAYOUT = KVLayout(32, 64, 4, 16, 128, "bfloat16")
NUM_TOKENS = LAYOUT.num_blocks * LAYOUT.block_size
NUM_CHUNKS = 2
NUM_GROUPS = 4
PREFILL_S = 0.5
FACTORS = (0.25, 1.0, 2.0, 8.0)
BOUND = 1.2
_SECRET = b"bench"
_TIMEOUT_S = 60.0


def run(repeats: int) -> list[Row]:
    """kv.exposed.*: milliseconds from prefill's end to the pull's, on a link of so many times the
    bandwidth that carries the prompt in the time of its prefill. The baseline is what no fabric
    can hide: the last layer group's transfer, or the backlog."""
    rows: list[Row] = []
    for transport in ("shm", "tcp"):
        for factor in FACTORS:
            measure = partial(_measure, transport, factor, repeats)
            rows += rows_or_reason(_name(transport, factor), measure)
    return rows


def _name(transport: str, factor: float) -> str:
    return f"kv.exposed.{transport}.{factor:g}x"


def _measure(transport: str, factor: float, repeats: int) -> list[Row]:
    rate_bytes_s = factor * LAYOUT.pool_bytes / PREFILL_S
    with _fabric(transport, rate_bytes_s) as (exporter, importer):
        exposed_s = [_exposed_s(exporter, importer, number) for number in range(repeats + 1)]
    value, bound_s = median(exposed_s[1:]), _bound_s(rate_bytes_s)  # the first opens the link
    name, label = _name(transport, factor), "max(last layer group, backlog)"
    return [Row(name, 1e3 * value, "ms", label, 1e3 * bound_s, value / bound_s)]


def _bound_s(rate_bytes_s: float) -> float:
    """DESIGN.md §5 with the groups of all chunks in the place of the layers."""
    num_groups = NUM_CHUNKS * NUM_GROUPS
    transfer_s = LAYOUT.pool_bytes / rate_bytes_s
    backlog_s = transfer_s - PREFILL_S * (num_groups - 1) / num_groups
    return max(transfer_s / num_groups, backlog_s)


def _exposed_s(exporter: Exporter, importer: Importer, export_id: int) -> float:
    results: queue.Queue[tuple[float, PullResult]] = queue.Queue()
    blocks = range(LAYOUT.num_blocks)
    handle = exporter.publish(export_id, blocks, NUM_TOKENS, 0)
    importer.pull(handle, blocks, 0, lambda result: results.put((time.perf_counter(), result)))
    ended_s = _prefill(exporter, export_id)
    pulled_s, result = results.get(timeout=_TIMEOUT_S)
    if not result.ok:
        raise RuntimeError(f"the pull failed: {result.error}")
    return pulled_s - ended_s


def _prefill(exporter: Exporter, export_id: int) -> float:
    """Advances the watermark group by group, evenly over PREFILL_S; gives when it ended."""
    begin_s, never = time.perf_counter(), threading.Event()
    group_layers = LAYOUT.num_layers // NUM_GROUPS
    for number in range(1, NUM_CHUNKS * NUM_GROUPS + 1):
        chunk, group = divmod(number - 1, NUM_GROUPS)
        due_s = begin_s + PREFILL_S * number / (NUM_CHUNKS * NUM_GROUPS)
        never.wait(max(0.0, due_s - time.perf_counter()))
        tokens = NUM_TOKENS * (chunk + 1) // NUM_CHUNKS
        exporter.advance(export_id, tokens, group_layers * (group + 1))
    exporter.complete(export_id, (1,))
    return time.perf_counter()


@contextmanager
def _fabric(transport: str, rate_bytes_s: float) -> Iterator[tuple[Exporter, Importer]]:
    clock = SystemClock()
    config = TransferConfig(transport=transport, expected_bytes_s=rate_bytes_s)
    pools = [KVMemory.allocate(LAYOUT.pool_bytes) for _ in range(2)]
    exporter = Exporter(
        LAYOUT,
        pools[0],
        "source",
        1,
        clock,
        _SECRET,
        config,
        on_released=lambda export_id: None,
    )
    exporter.start("127.0.0.1")
    transports = with_faults(TRANSPORTS, Faults(rate_bytes_s=rate_bytes_s), clock)
    importer = Importer(LAYOUT, pools[1], clock, _SECRET, config, transports=transports)
    try:
        yield exporter, importer
    finally:
        importer.close()
        exporter.close()
        for pool in pools:
            pool.close()
