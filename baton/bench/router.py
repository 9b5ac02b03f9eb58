"""What a placement costs: matching a prompt, choosing workers, applying block events.

BATON_DYNAMO_PYTHON names an interpreter that has ai-dynamo-runtime: its index is measured there.
"""

import gc
import itertools
import json
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import median, quantiles

from baton.bench.row import Row
from router.candidates import Candidate, ClusterView
from router.config import RouterConfig
from router.outlook import LinkCosts, Outlook
from router.placer import Placer
from router.predictor import StepCosts
from router.prefix_map import PrefixMap
from runtime.clock import SystemClock
from runtime.settings import environment
from wire.block_hash import BLOCK_SIZE
from wire.codec import decode_worker_frame, encode_worker_frame
from wire.messages import (
    BlockEvent,
    BlockSnapshot,
    GenerateRequest,
    Role,
    SamplingParams,
    WorkerFrame,
)

_COSTS = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)
_LINK = LinkCosts(1e-5, 5e-4)
_MAX_BLOCKS = 1 << 18
_MAP_BLOCKS = 1_000_000
_PLACEMENTS = 200
_EVENT_BLOCKS = 32
_MEMORY_BLOCKS = 15_000  # of each worker
_FULL_BLOCKS = 51_900  # an H200 holds as many of Llama-3.1-8B
_SHARERS = 4  # workers that hold the same half of their blocks
_DYNAMO_SCRIPT = Path(__file__).parent / "dynamo_indexer.py"
_DYNAMO_TIMEOUT_S = 300.0
TimeUs = Callable[[Callable[[], object]], float]


def run(repeats: int) -> list[Row]:
    """Rows beside their bounds; a ratio of 1 or less meets the bound."""
    rows = []
    for num_workers, num_blocks, p50_us, p99_us in (
        (8, 128, 60.0, 0.0),
        (64, 512, 500.0, 1000.0),
        (1000, 512, 3000.0, 0.0),
    ):
        bench = PlaceBench(num_workers, num_blocks, _MAP_BLOCKS if num_workers > 8 else 100_000)
        match_us = bench.match_us(repeats * _PLACEMENTS)
        times_us = bench.place_us(repeats * _PLACEMENTS)
        rows.append(_bounded(f"router.place.{num_workers}.p50", median(times_us), "us", p50_us))
        if p99_us:
            p99 = quantiles(times_us, n=100)[98]
            rows.append(_bounded(f"router.place.{num_workers}.p99", p99, "us", p99_us))
            cpu_us = quantiles(bench.place_us(repeats * _PLACEMENTS, _cpu_us), n=100)[98]
            rows.append(_bounded(f"router.place.{num_workers}.p99.cpu", cpu_us, "us", p99_us))
            rows.append(_bounded("router.match", median(match_us), "us", 80.0))
    per_s = median(events_per_s() for _ in range(repeats))
    rows.append(Row("router.events", per_s, "blocks/s", "bound", 200_000.0, 200_000.0 / per_s))
    if interpreter := environment("DYNAMO_PYTHON"):
        rows += beside(rows, measure_dynamo(interpreter, 64, 512, repeats * _PLACEMENTS))
    rows.append(_bounded("router.memory", bytes_per_block(64, _MEMORY_BLOCKS), "bytes", 120.0))
    for name, num_blocks in (("", _MAP_BLOCKS // 100), (".full", _FULL_BLOCKS)):
        frames = snapshot_frames(100, num_blocks)
        cpu_s = median(rebuild_s(frames) for _ in range(repeats))
        rows.append(_bounded(f"router.rebuild.100{name}", cpu_s, "s of CPU", 1.0))
    return rows


def _bounded(name: str, value: float, unit: str, bound: float) -> Row:
    return Row(name, value, unit, "bound", bound, value / bound)


def measure_dynamo(
    interpreter: str, num_workers: int, prompt_blocks: int, num_matches: int
) -> dict[str, float]:
    """Dynamo's index in its own process: value by row name. Raises CalledProcessError."""
    numbers = (num_workers, _PLACEMENTS, prompt_blocks, _MAP_BLOCKS, num_matches)
    command = [interpreter, "-P", str(_DYNAMO_SCRIPT), *map(str, numbers)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=_DYNAMO_TIMEOUT_S, check=True
    )
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def beside(rows: Sequence[Row], peer: Mapping[str, float]) -> list[Row]:
    """A second row for each figure that Dynamo has too; a ratio of 1 or less: ours is no worse."""
    found = []
    for row in {row.name: row for row in rows if row.name in peer}.values():
        theirs = peer[row.name]
        ratio = row.value / theirs if row.unit == "us" else theirs / row.value
        found.append(Row(f"{row.name}.dynamo", row.value, row.unit, "Dynamo index", theirs, ratio))
    return found


class PlaceBench:
    """A placer over made-up workers, half of them prefill, and prompts that some of them hold."""

    def __init__(self, num_workers: int, num_blocks: int, map_blocks: int) -> None:
        self._rng = Random(num_workers)
        self._prefix_map = PrefixMap(_MAX_BLOCKS)
        self._clock = SystemClock()
        self._num_blocks = num_blocks
        self.prompts = [self._hashes(num_blocks) for _ in range(_PLACEMENTS)]
        pools: dict[Role, list[Candidate]] = {Role.PREFILL: [], Role.DECODE: []}
        for number in range(num_workers):
            role = Role.PREFILL if number % 2 else Role.DECODE
            pools[role].append(self._worker(number, role, map_blocks // num_workers))
        self._view = ClusterView(tuple(pools[Role.PREFILL]), tuple(pools[Role.DECODE]))
        config = RouterConfig("", "bench", policy="predicted")
        self._placer = Placer(config, self, self._prefix_map, self._clock, self._rng)

    def view(self) -> ClusterView:
        return self._view

    def place_us(self, count: int, time_us: TimeUs | None = None) -> list[float]:
        """The whole decision: facts, match, choice, and the note of what was routed where."""
        time_us = time_us or _timed_us
        requests = [
            GenerateRequest(
                str(number),
                tuple(range(self._num_blocks * BLOCK_SIZE + 5)),
                SamplingParams(max_tokens=200),
                hashes,
            )
            for number, hashes in enumerate(self.prompts)
        ]
        placer, none = self._placer, frozenset[tuple[str, int]]()
        calls = itertools.islice(itertools.cycle(requests), count)
        return [time_us(partial(placer.place, request, 0, none)) for request in calls]

    def match_us(self, count: int) -> list[float]:
        match = self._prefix_map.match
        calls = itertools.islice(itertools.cycle(self.prompts), count)
        return [_timed_us(partial(match, hashes)) for hashes in calls]

    def _worker(self, number: int, role: Role, num_blocks: int) -> Candidate:
        rng, worker_id = self._rng, f"{role.value}-{number}"
        held: list[int] = []
        num_prompts = max(1, min(8, num_blocks // self._num_blocks))
        for hashes in rng.sample(self.prompts, num_prompts):
            held += hashes[: rng.randrange(len(hashes))]
        held += self._hashes(max(0, num_blocks - len(held)))
        self._prefix_map.add_worker(worker_id)
        self._prefix_map.load_snapshot(worker_id, BlockSnapshot(0, tuple(held)))
        seqs = rng.randrange(20) if role is Role.DECODE else 0
        queue_s = rng.random() if role is Role.PREFILL else 0.0
        tpot_s = _COSTS.itl_s(seqs, 4000 * seqs)
        share = rng.random() / 2
        outlook = Outlook(_COSTS, 1.0, seqs, 4000 * seqs, queue_s, share, _LINK, 0.0, tpot_s)
        waiting = round(queue_s / _COSTS.prefill_token_s)
        return Candidate(worker_id, 1, role, 0, seqs, waiting, 50_000, 50_000, outlook)

    def _hashes(self, count: int) -> tuple[int, ...]:
        return tuple(self._rng.getrandbits(64) for _ in range(count))


def events_per_s() -> float:
    """Blocks stored and removed a second, in events of a prefill chunk's size, on a full map."""
    rng, prefix_map = Random(1), PrefixMap(_MAX_BLOCKS)
    prefix_map.add_worker("w")
    prefix_map.load_snapshot("w", BlockSnapshot(0))
    stored = [tuple(rng.getrandbits(64) for _ in range(_EVENT_BLOCKS)) for _ in range(4000)]
    events = [
        BlockEvent(number + 1, blocks, stored[number - 1000] if number >= 1000 else ())
        for number, blocks in enumerate(stored)
    ]
    num_blocks = sum(len(event.stored) + len(event.removed) for event in events)
    start_s = time.perf_counter()
    for event in events:
        prefix_map.apply("w", event)
    return num_blocks / (time.perf_counter() - start_s)


def bytes_per_block(num_workers: int, num_blocks: int) -> float:
    """Memory of one block of one worker, each block held by one worker; the hash counts too."""
    rng = Random(2)
    gc.collect()
    tracemalloc.start()
    prefix_map = PrefixMap(_MAX_BLOCKS)
    for number in range(num_workers):
        prefix_map.add_worker(f"w{number}")
        stored = tuple(rng.getrandbits(64) for _ in range(num_blocks))
        prefix_map.load_snapshot(f"w{number}", BlockSnapshot(0, stored))
        del stored
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / (num_workers * num_blocks)


def snapshot_frames(num_workers: int, num_blocks: int) -> list[bytes]:
    """Each worker's first frame to a router that has just started, as it is on the wire."""
    rng, frames = Random(3), list[bytes]()
    shared: list[int] = []
    for number in range(num_workers):
        if number % _SHARERS == 0:
            shared = [rng.getrandbits(64) for _ in range(num_blocks // 2)]
        own = [rng.getrandbits(64) for _ in range(num_blocks - len(shared))]
        snapshot = BlockSnapshot(number, (*shared, *own))
        frames.append(encode_worker_frame(WorkerFrame(snapshot=snapshot)).SerializeToString())
    return frames


def rebuild_s(frames: Sequence[bytes]) -> float:
    """CPU seconds until an empty map holds what the frames tell, decoding included."""
    prefix_map, parse = PrefixMap(_MAX_BLOCKS), encode_worker_frame(WorkerFrame()).FromString
    start_s = time.process_time()
    for number, data in enumerate(frames):
        frame = decode_worker_frame(parse(data))
        assert frame.snapshot is not None, "a first frame has a snapshot"
        prefix_map.add_worker(str(number))
        prefix_map.load_snapshot(str(number), frame.snapshot)
    return time.process_time() - start_s


def _timed_us(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start_s)


def _cpu_us(call: Callable[[], object]) -> float:
    """What other work on the machine does not lengthen by interrupting it."""
    start_s = time.thread_time()
    call()
    return 1e6 * (time.thread_time() - start_s)
