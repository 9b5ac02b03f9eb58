"""What comparing digests costs a transfer: the same pulls with and without, two processes."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

import numpy as np

from baton.bench.core_pair import hold
from baton.bench.row import Row, rows_or_reason
from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.pull import PullResult
from runtime.clock import SystemClock
from wire.kv import KVHandle, KVLayout

# 256 MiB in regions of 32 KiB.
LAYOUT = KVLayout(32, 256, 4, 16, 128, "bfloat16")
NUM_TOKENS = LAYOUT.num_blocks * LAYOUT.block_size
SHARE = 0.05
PULLS_PER_REPEAT = 15
_SECRET = b"bench"
_TIMEOUT_S = 60.0


def digest_rows(repeats: int, cores: frozenset[int]) -> list[Row]:
    """kv.digest.*: milliseconds of a pull of 256 MiB, whose digests of 5 % of the regions are
    compared, beside the same pull without. The two take turns; the ratio is the median of pairs.
    Both processes share `cores`: each side hashes beside what it moves."""
    hold(cores)
    with _source() as source, filled_memory(0) as memory:
        rows: list[Row] = []
        for transport in ("shm", "tcp"):
            measure = partial(_measure, transport, source, memory, repeats)
            rows += rows_or_reason(f"kv.digest.{transport}", measure)
        return rows


def _measure(transport: str, source: Connection, memory: KVMemory, repeats: int) -> list[Row]:
    config = TransferConfig(transport=transport)
    importer = Importer(LAYOUT, memory, SystemClock(), _SECRET, config)
    times: dict[float, list[float]] = {0.0: [], SHARE: []}
    try:
        for number in range(repeats * PULLS_PER_REPEAT + 1):
            for share in sorted(times, reverse=bool(number % 2)):
                result = _pull(importer, source, share)
                if number:  # the first touches the memory and opens the link
                    times[share].append(1e3 * result.transfer_s)
    finally:
        importer.close()
    plain, verified = times[0.0], times[SHARE]
    ratio = median(b / a for a, b in zip(plain, verified, strict=True))
    name, label = f"kv.digest.{transport}", "the same pull without digests"
    return [Row(name, median(verified), "ms", label, median(plain), ratio)]


def _pull(importer: Importer, source: Connection, share: float) -> PullResult:
    source.send("publish")
    handle: KVHandle = source.recv()
    return _pulled(importer, handle, share)


def pull_s(importer: Importer, handle: KVHandle) -> float:
    """Seconds of a pull without digests. Raises RuntimeError when it fails."""
    return _pulled(importer, handle, 0.0).transfer_s


def _pulled(importer: Importer, handle: KVHandle, share: float) -> PullResult:
    results: queue.Queue[PullResult] = queue.Queue()
    importer.pull(handle, range(LAYOUT.num_blocks), 0, results.put, verify_share=share)
    result = results.get(timeout=_TIMEOUT_S)
    if not result.ok:
        raise RuntimeError(f"the pull failed: {result.error}")
    return result


@contextmanager
def filled_memory(byte: int) -> Iterator[KVMemory]:
    """A pool of LAYOUT, every byte the same."""
    memory = KVMemory.allocate(LAYOUT.pool_bytes)
    np.frombuffer(memory.buffer, np.uint8)[:] = byte
    yield memory
    memory.close()


@contextmanager
def _source() -> Iterator[Connection]:
    """A process that publishes its whole pool each time it is asked."""
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    yield mine
    mine.send("stop")
    process.join()


def _serve(asked: Connection) -> None:
    with filled_memory(7) as memory:
        exporter = Exporter(
            LAYOUT,
            memory,
            "source",
            1,
            SystemClock(),
            _SECRET,
            TransferConfig(),
            on_released=lambda export_id: None,
        )
        exporter.start("127.0.0.1")
        export_id = 0
        while asked.recv() == "publish":
            export_id += 1
            blocks = range(LAYOUT.num_blocks)
            handle = exporter.publish(export_id, blocks, NUM_TOKENS, NUM_TOKENS)
            exporter.complete(export_id, (1,))
            asked.send(handle)
        exporter.close()
