"""A worker whose KV cache is small and whose host holds what it evicts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import baton
from router.prefix_map import PrefixMap
from wire.block_hash import block_hashes
from wire.messages import (
    BlockEvent,
    GenerateRequest,
    LegAccepted,
    LegFinished,
    LegTokens,
    SamplingParams,
    StartLeg,
)
from worker.build import WorkerParts, build
from worker.commands import Join, Snapshot, Start
from worker.config import WorkerConfig

DEMO = Path(baton.__file__).parent / "demo_model"
SMALL = WorkerConfig(str(DEMO), kv_memory="2176KiB", dtype="float32", threads=1, max_model_len=256)
PROMPTS = [tuple(range(10 * i, 10 * i + 120)) for i in range(1, 6)]


def served(
    parts: WorkerParts,
    leg_id: int,
    prompt: tuple[int, ...],
    on_blocks: Callable[[BlockEvent], object] = id,
) -> tuple[list[int], int, int]:
    """The answer, its cached tokens, and how many tokens of the prompt were computed for it."""
    sampling = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    hashes = tuple(block_hashes(prompt))
    before = parts.core.report().totals.num_prefill_tokens
    parts.core.apply(Start(1, StartLeg(leg_id, GenerateRequest("r", prompt, sampling, hashes))))
    events: list[object] = []
    while not any(isinstance(event, LegFinished) for event in events):
        plan = parts.core.begin_step()
        assert plan is not None
        parts.core.run_step(plan)
        outbox = parts.core.take_outbox()
        events += outbox.events.get(1, ())
        if outbox.block_event is not None:
            on_blocks(outbox.block_event)
    tokens = [token for event in events if isinstance(event, LegTokens) for token in event.tokens]
    cached = next(e.num_cached_tokens for e in events if isinstance(e, LegAccepted))
    parts.core.check_integrity()
    return tokens, cached, parts.core.report().totals.num_prefill_tokens - before


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, dtype="bfloat16", kv_memory="1088KiB"),
        replace(SMALL, kv_dtype="fp8", kv_memory="544KiB"),
        pytest.param(replace(SMALL, tensor_parallel=2, threads=2), marks=pytest.mark.slow),
        pytest.param(replace(SMALL, device="cuda"), marks=pytest.mark.gpu),
    ],
    ids=["float32", "bfloat16", "fp8", "two ranks", "gpu"],
)
def test_prompts_that_the_device_has_no_room_for_come_back_from_the_host(
    config: WorkerConfig,
) -> None:
    with build(replace(config, host_kv_memory="8MiB")) as parts:
        parts.core.apply(Join(1))
        first = [served(parts, i, prompt) for i, prompt in enumerate(PROMPTS)]
        again = [served(parts, 10 + i, prompt) for i, prompt in enumerate(PROMPTS)]
        host = parts.core.report().host
    assert [answer for answer, *_ in again] == [answer for answer, *_ in first]
    assert {cached for _, cached, _ in again} == {112}
    assert {computed for *_, computed in again} == {8}
    assert host.num_restored_tokens >= 300 and host.num_used_blocks <= host.num_blocks


def test_a_router_learns_what_moved_to_the_host() -> None:
    prefixes = PrefixMap(1000)
    prefixes.add_worker("w")
    with build(replace(SMALL, host_kv_memory="8MiB")) as parts:
        parts.core.apply(Join(1))
        snapshot = parts.core.take_outbox().snapshots[1]
        prefixes.load_snapshot("w", snapshot)
        for number, prompt in enumerate(PROMPTS[:3]):
            served(parts, number, prompt, lambda event: prefixes.apply("w", event))
        found = [prefixes.match(block_hashes(prompt)) for prompt in PROMPTS[:3]]
        parts.core.apply(Snapshot(1))
        whole = PrefixMap(1000)
        whole.add_worker("w")
        whole.load_snapshot("w", parts.core.take_outbox().snapshots[1])
    # Of 16 blocks each prompt and its answer take 8, of which 7 are full.
    assert [match.confirmed.get("w", 0) for match in found] == [1, 7, 7]
    assert [match.host.get("w", 0) for match in found] == [7, 0, 0]
    assert found == [whole.match(block_hashes(prompt)) for prompt in PROMPTS[:3]]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host_kv_memory": "100"}, "host_kv_memory of 100 bytes is less than one KV block"),
        ({"host_kv_memory": "much"}, "'much' is not a size"),
        (
            {"host_kv_memory": "100", "profile": "llama-3.1-8b@h200"},
            "100 bytes of host memory, a token's KV has 131072",
        ),
    ],
)
def test_a_host_tier_that_cannot_be_had_is_refused_by_name(
    settings: dict[str, str], named: str
) -> None:
    with pytest.raises(ValueError, match=named), build(replace(SMALL, **settings)):
        pass
