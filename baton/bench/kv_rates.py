"""The KV fabric beside the wire: pulls between two processes, and the same bytes moved barely."""

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

import numpy as np

from baton.bench.core_pair import ANYWHERE, CorePair, Placement, hold
from baton.bench.kv_bare import BareNixl, BareUcx, Read, memcpy, receive_all
from baton.bench.kv_latency import latency_rows
from baton.bench.kv_lists import LISTS, POOL, BlockList, runs
from baton.bench.kv_source import SECRET, SourceProcess, source_process
from baton.bench.row import Row, failed_row, rows_or_reason
from kv_transfer.config import TransferConfig
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.pull import PullResult
from kv_transfer.transports.nixl_agent import load_bindings
from kv_transfer.transports.ucx_port import find_ucx
from runtime.clock import SystemClock
from runtime.settings import set_library_defaults

_OPTIONAL: dict[str, Callable[[], object]] = {"nixl": load_bindings, "ucx": find_ucx}
_READS = {"scattered": 9, "contiguous": 1}  # of one repeat
BARE = {
    "shm": "memcpy of the same list in one process",
    "tcp": "one blocking socket, sendmsg and recvmsg_into",
    "nixl": "bare NIXL READ loop",
    "ucx": "bare ucxx loop, packed",
}
_MANY = 4  # connections of tcp, beside the one that is the default
_IDLE_S = 2.0
_TIMEOUT_S = 60.0


def transport_rows(transport: str, repeats: int, pair: CorePair | None) -> list[Row]:
    """kv.{transport}.scattered: 512 blocks of 32 KiB, scattered on both sides, and .contiguous:
    256 MiB, in GB/s from the source's consent to the last byte; what digests add stands in
    kv.digest. kv.tcp.x4: by four connections, beside the same one socket. .cpu: seconds a GB, both
    sides. .latency: microseconds of a lane's read of 4 KiB. kv.idle.*: per cent of a core of the
    busier side while a pull waits for prefill. A ratio above 1 is better than the baseline. Each
    process has its core of `pair`, several connections have all cores; None: the kernel chooses.

    Both processes are new ones, for libraries of a transport keep settings for a whole process;
    where something cannot be measured, one row says why.
    """
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(transport, repeats, pair, theirs))
    process.start()
    theirs.close()  # so that a process that ends early ends the wait too
    try:
        rows: list[Row] = mine.recv()
    except EOFError:
        rows = [failed_row(f"kv.{transport}", "its process ended")]
    finally:
        process.join()
    return rows


def _measure(transport: str, repeats: int, pair: CorePair | None, connection: Connection) -> None:
    if transport == "ucx":  # over TCP also on one host
        set_library_defaults({"UCX_TLS": "tcp"})
    connection.send(rows_or_reason(f"kv.{transport}", lambda: _rows(transport, repeats, pair)))


def _rows(transport: str, repeats: int, pair: CorePair | None) -> list[Row]:
    apart, spread = (pair.apart, pair.spread) if pair is not None else (ANYWHERE, ANYWHERE)
    _OPTIONAL.get(transport, lambda: None)()
    with _rig(transport, apart) as rig:
        idle = rows_or_reason(f"kv.idle.{transport}", lambda: [_idle(rig)])  # before bare peers
        rows = _shapes(rig, repeats)
    latency = rows_or_reason(
        f"kv.{transport}.latency", lambda: latency_rows(transport, repeats, apart)
    )
    if transport == "tcp":
        with _rig(transport, spread, _MANY) as rig:
            rows += _shapes(rig, repeats)
    return [*rows, *latency, *idle]


def _shapes(rig: "_Rig", repeats: int) -> list[Row]:
    rows: list[Row] = []
    for shape in LISTS:
        measure = partial(_throughput, rig, shape, repeats)
        rows += rows_or_reason(f"{rig.name}.{shape}", measure)
    return rows


@dataclass(frozen=True, slots=True)
class _Rig:
    name: str
    transport: str
    source: SourceProcess
    target: KVMemory
    local: KVMemory  # the source of memcpy
    importer: Importer
    stack: contextlib.ExitStack

    def pull(self, blocks: BlockList) -> PullResult:
        """Raises RuntimeError when it fails."""
        handle = self.source.publish(blocks.source, False, True)
        results: queue.Queue[PullResult] = queue.Queue()
        self.importer.pull(handle, blocks.target, 0, results.put, verify_share=0.0)
        result = results.get(timeout=_TIMEOUT_S)
        if not result.ok:
            raise RuntimeError(f"a pull over {self.transport} failed: {result.error}")
        return result


@contextlib.contextmanager
def _rig(transport: str, placement: Placement, num_connections: int = 1) -> Iterator[_Rig]:
    hold(placement.reader)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(source_process(transport, placement.source))
        target, local = (KVMemory.allocate(POOL.pool_bytes) for _ in range(2))
        for memory in (target, local):
            stack.callback(memory.close)
            np.frombuffer(memory.buffer, np.uint8)[:] = 2
        config = TransferConfig(transport=transport, tcp_connections=num_connections)
        importer = Importer(POOL, target, SystemClock(), SECRET, config)
        stack.callback(importer.close)
        name = f"kv.{transport}" + (f".x{num_connections}" if num_connections > 1 else "")
        yield _Rig(name, transport, source, target, local, importer, stack)


def _throughput(rig: _Rig, shape: str, repeats: int) -> list[Row]:
    """The fabric, its bare counterpart and memcpy take turns."""
    lists = LISTS[shape]()
    pulls = _Timed(lambda number: rig.pull(lists[number]).transfer_s, rig.source)
    copy = _Timed(_timed(memcpy(rig.local, rig.target, lists)), rig.source)
    sides = [pulls, copy]
    if rig.transport != "shm":
        sides.append(_Timed(_timed(_bare(rig, shape, lists)), rig.source))
    for repeat in range(repeats + 1):
        for side in sides:
            side.round(repeat, _READS[shape], len(lists))
    num_bytes = lists[0].num_bytes
    name = f"{rig.name}.{shape}"
    rows = [_rate_row(name, BARE[rig.transport], pulls, sides[-1], num_bytes)]
    if rig.transport == "nixl":
        rows.append(_rate_row(f"{name}.of_memcpy", BARE["shm"], pulls, copy, num_bytes))
    per_gb = 1e9 / num_bytes
    mine, bare = per_gb * median(pulls.cpu_s), per_gb * median(sides[-1].cpu_s)
    rows.append(Row(f"{name}.cpu", mine, "CPU s/GB", BARE[rig.transport], bare, bare / mine))
    return rows


class _Timed:
    """Seconds of reads and processor seconds of both processes, one figure a repeat."""

    def __init__(self, read_s: Callable[[int], float], source: SourceProcess) -> None:
        self._read_s = read_s
        self._source = source
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []

    def round(self, repeat: int, num_reads: int, num_lists: int) -> None:
        """Repeat 0 touches the memory and opens connections; it does not count."""
        begin_s = time.process_time() + self._source.cpu_s()
        times = [self._read_s((repeat + at) % num_lists) for at in range(num_reads)]
        cpu_s = time.process_time() + self._source.cpu_s() - begin_s
        if repeat:
            self.seconds.append(median(times))
            self.cpu_s.append(cpu_s / num_reads)


def _rate_row(name: str, label: str, mine: _Timed, other: _Timed, num_bytes: int) -> Row:
    ratio = median(b / a for a, b in zip(mine.seconds, other.seconds, strict=True))
    rate, base = (num_bytes / median(side.seconds) / 1e9 for side in (mine, other))
    return Row(name, rate, "GB/s", label, base, ratio)


def _timed(read: Read) -> Callable[[int], float]:
    def timed(number: int) -> float:
        begin_s = time.perf_counter()
        read(number)
        return time.perf_counter() - begin_s

    return timed


def _bare(rig: _Rig, shape: str, lists: list[BlockList]) -> Read:
    source, extents = rig.source, [runs(blocks.target) for blocks in lists]
    if rig.transport == "nixl":
        return BareNixl(rig.target, serves=False).reader(*source.offer_nixl(), lists)
    ucx = BareUcx(rig.target, extents) if rig.transport == "ucx" else None
    sock = source.start_sender(rig.transport, shape, ucx.address if ucx is not None else b"")
    rig.stack.callback(sock.close)
    buffer = rig.target.buffer
    views = [[buffer[at : at + size] for at, size in some] for some in extents]

    def read(number: int) -> None:
        sock.sendall(bytes([number]))
        if ucx is not None:
            ucx.receive(number)
        else:
            receive_all(sock, deque(views[number]))

    return read


def _idle(rig: _Rig) -> Row:
    """Per cent of a core of the busier side, with a link open and a pull behind prefill."""
    rig.pull(BlockList((0,), (0,)))  # opens the link
    handle = rig.source.publish((0,), False, False)
    results: queue.Queue[PullResult] = queue.Queue()
    rig.importer.pull(handle, (0,), 0, results.put)
    time.sleep(0.2)  # until it is attached
    begin = time.process_time(), rig.source.cpu_s()
    time.sleep(_IDLE_S)
    end = time.process_time(), rig.source.cpu_s()
    rig.source.abort_all()
    results.get(timeout=_TIMEOUT_S)
    busier = max(b - a for a, b in zip(begin, end, strict=True)) / _IDLE_S
    value, target = 100 * busier, 2.0
    return Row(f"kv.idle.{rig.transport}", value, "% of a core", "target", target, target / value)
