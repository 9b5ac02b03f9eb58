"""Two pools whose caches are fp8: half the bytes, and the answers of one such worker."""

from dataclasses import replace
from pathlib import Path

import pytest

import baton
from wire.block_hash import block_hashes
from wire.messages import (
    GenerateRequest,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    SamplingParams,
    StartLeg,
)
from worker.build import WorkerParts, build
from worker.commands import Join, Start
from worker.config import WorkerConfig

DEMO = Path(baton.__file__).parent / "demo_model"
PLAIN = WorkerConfig(str(DEMO), kv_memory="16MiB", dtype="float32", threads=1, max_model_len=512)
FP8 = replace(PLAIN, kv_dtype="fp8")
PROMPT = tuple(range(40, 99))


def request(max_tokens: int) -> GenerateRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    return GenerateRequest("r", PROMPT, sampling, block_hashes=tuple(block_hashes(PROMPT)))


def events_of(parts: WorkerParts, until: type) -> list[object]:
    """Turns of the core until an event of that kind has come and nothing is left to run."""
    found: list[object] = []
    while True:
        ran = parts.core.begin_step()
        found.extend(parts.core.take_outbox().events.get(1, ()))
        if ran is not None:
            parts.core.run_step(ran)
            found.extend(parts.core.take_outbox().events.get(1, ()))
            continue
        if any(isinstance(event, until) for event in found):
            return found
        command = parts.inbox.take(block=True)
        parts.core.apply(command)  # type: ignore[arg-type]


def answer(parts: WorkerParts, leg: StartLeg) -> tuple[list[int], list[object]]:
    parts.core.apply(Join(1))
    parts.core.apply(Start(1, leg))
    found = events_of(parts, LegTransferred if leg.handle is not None else LegTokens)
    tokens = [token for event in found if isinstance(event, LegTokens) for token in event.tokens]
    return tokens, found


def test_the_cache_of_an_fp8_worker_holds_four_times_the_tokens_of_a_float32_one() -> None:
    with build(PLAIN) as plain, build(FP8) as narrow:
        ratio = narrow.core.report().num_blocks / plain.core.report().num_blocks
        assert ratio == pytest.approx(4, rel=0.02)
        assert plain.fingerprint != narrow.fingerprint
        assert "fp8" in narrow.fingerprint.revision


def test_kv_that_travels_in_fp8_gives_the_answer_of_one_worker() -> None:
    with build(FP8) as alone:
        whole, _ = answer(alone, StartLeg(1, request(24)))
    with build(replace(FP8, role=Role.PREFILL)) as prefill, build(FP8) as decode:
        assert prefill.fingerprint == decode.fingerprint
        first, events = answer(prefill, StartLeg(1, request(24), prefill_only=True))
        handle = next(event.handle for event in events if isinstance(event, LegPublished))
        rest, events = answer(decode, StartLeg(2, request(24), handle=handle))
        moved = next(event for event in events if isinstance(event, LegTransferred))
        assert not moved.failure and moved.num_bytes > 0
    assert first == whole[:1] and rest[-23:] == whole[1:]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kv_dtype": "int3"}, "'int3' is not one of auto, fp8"),
        ({"kv_dtype": "fp8", "profile": "llama-3.1-8b@h200"}, "a profile is set"),
    ],
)
def test_other_dtypes_of_a_cache_are_refused_by_name(settings, named: str) -> None:
    with pytest.raises(ValueError, match=named), build(replace(PLAIN, **settings)):
        pass
