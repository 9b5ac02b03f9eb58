"""Two pools whose caches are fp8: half the bytes, and the answers of one such worker."""

from dataclasses import replace
from pathlib import Path

import pytest
from leg_runs import greedy, handed_over, run_leg

import baton
from wire.messages import Role, StartLeg
from worker.build import build
from worker.config import WorkerConfig

DEMO = Path(baton.__file__).parent / "demo_model"
PLAIN = WorkerConfig(str(DEMO), kv_memory="16MiB", dtype="float32", threads=1, max_model_len=512)
FP8 = replace(PLAIN, kv_dtype="fp8")
PROMPT = tuple(range(40, 99))


def test_the_cache_of_an_fp8_worker_holds_four_times_the_tokens_of_a_float32_one() -> None:
    with build(PLAIN) as plain, build(FP8) as narrow:
        ratio = narrow.core.report().num_blocks / plain.core.report().num_blocks
        assert ratio == pytest.approx(4, rel=0.02)
        assert plain.fingerprint != narrow.fingerprint
        assert "fp8" in narrow.fingerprint.revision


def test_kv_that_travels_in_fp8_gives_the_answer_of_one_worker() -> None:
    request = greedy(PROMPT, 24)
    with build(FP8) as alone:
        whole, _ = run_leg(alone, StartLeg(1, request))
    with build(replace(FP8, role=Role.PREFILL)) as prefill, build(FP8) as decode:
        assert prefill.fingerprint == decode.fingerprint
        handed, _ = handed_over(prefill, decode, request)
    assert handed == whole


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
