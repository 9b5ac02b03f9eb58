"""Measures Dynamo's prefix index as `baton bench router` does. Run by Dynamo's interpreter.

    DYNAMO_PYTHON -P dynamo_indexer.py WORKERS PROMPTS PROMPT_BLOCKS MAP_BLOCKS MATCHES

Prints one JSON object, values by the row names of baton.bench.router, as its last line. The index
is the one of its Python binding; the call through the binding is in the figures, as is the decoding
of its events, which are JSON.
"""

import json
import sys
import time
from itertools import count, cycle, islice
from random import Random
from statistics import median
from typing import Any

MAX_PROMPTS_HELD = 8
EVENT_BLOCKS = 32
NUM_EVENTS = 2000

_rng = Random(1)
_event_ids = count(1)


def hashes(num_blocks: int) -> list[int]:
    return [_rng.getrandbits(64) for _ in range(num_blocks)]


def stored(blocks: list[int]) -> bytes:
    """One event: these blocks, each behind the one before it."""
    entries = [{"block_hash": block, "tokens_hash": block} for block in blocks]
    data = {"stored": {"parent_hash": None, "blocks": entries}}
    return json.dumps({"event_id": next(_event_ids), "data": data}).encode()


def fill(tree: Any, worker: int, prompts: list[list[int]], num_blocks: int) -> None:
    """Beginnings of some prompts, the rest blocks that nobody asks for."""
    num_held, size = 0, len(prompts[0])
    for prompt in _rng.sample(prompts, max(1, min(MAX_PROMPTS_HELD, num_blocks // size))):
        part = prompt[: _rng.randrange(1, size)]
        tree.apply_event(worker, stored(part))
        num_held += len(part)
    while num_held < num_blocks:
        tree.apply_event(worker, stored(hashes(size)))
        num_held += size


def main() -> None:
    num_workers, num_prompts, size, map_blocks, num_matches = map(int, sys.argv[1:])
    # Only its own interpreter has it.
    from dynamo._core import RadixTree  # type: ignore[import-not-found]

    tree, prompts = RadixTree(), [hashes(size) for _ in range(num_prompts)]
    for worker in range(num_workers):
        fill(tree, worker, prompts, map_blocks // num_workers)
    deepest = max(max(tree.find_matches(prompt).scores.values(), default=0) for prompt in prompts)
    assert deepest > size // 2, "the index does not hold what it was told"
    times_s = []
    for prompt in islice(cycle(prompts), num_matches):
        start_s = time.perf_counter()
        tree.find_matches(prompt)
        times_s.append(time.perf_counter() - start_s)
    events = [stored(hashes(EVENT_BLOCKS)) for _ in range(NUM_EVENTS)]
    start_s = time.perf_counter()
    for event in events:
        tree.apply_event(0, event)
    tree.find_matches(prompts[0])  # it answers when it has applied them
    per_s = NUM_EVENTS * EVENT_BLOCKS / (time.perf_counter() - start_s)
    print(json.dumps({"router.match": 1e6 * median(times_s), "router.events": per_s}))


if __name__ == "__main__":
    main()
