"""Workers whose model several processes compute: real processes, gloo, and the real fabric."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from eagle_heads import ReferenceHead, Shape
from leg_runs import greedy, handed_over, run_leg

import baton
from engine.config import ModelConfig
from engine.parallel.leading_model import RankLostError
from wire.messages import GenerateRequest, StartLeg
from worker.build import WorkerParts, build
from worker.commands import Join, Start
from worker.config import WorkerConfig
from worker.model_ranks import ModelRanks

DEMO = Path(baton.__file__).parent / "demo_model"
ALONE = WorkerConfig(str(DEMO), kv_memory="16MiB", dtype="float32", threads=2, max_model_len=512)
SHARED = replace(ALONE, tensor_parallel=2)
DEADLINE_S = 60.0


def request(seed: int) -> GenerateRequest:
    """24 tokens after a prompt of its own."""
    return greedy(tuple(range(40 + seed, 140 + seed)), 24)


def ranks() -> list[psutil.Process]:
    """The processes of this one's that compute a model."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, and is another test's
            if "engine.parallel.follower" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture(scope="module")
def alone() -> Iterator[WorkerParts]:
    with build(ALONE) as parts:
        yield parts


@pytest.fixture(scope="module", params=["one pool", "memory of their own"])
def shared(request: pytest.FixtureRequest) -> Iterator[WorkerParts]:
    """A worker of two processes; the last test that takes it ends one of them.

    With memory of their own the ranks are as on GPUs: mirrors lie between it and the pool.
    """
    own_kv_on = frozenset({"cpu"} if request.param == "memory of their own" else ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.build.ModelRanks", partial(ModelRanks, own_kv_on=own_kv_on))
        with build(SHARED) as parts:
            (rank,) = ranks()
            yield parts
    assert not rank.is_running()


def test_two_processes_answer_as_one_does(alone: WorkerParts, shared: WorkerParts) -> None:
    leg = StartLeg(1, request(1))
    assert run_leg(shared, leg)[0] == run_leg(alone, leg)[0]
    assert shared.fingerprint == alone.fingerprint


def test_a_prompt_that_two_processes_computed_is_continued_by_one(
    alone: WorkerParts, shared: WorkerParts
) -> None:
    handed, _ = handed_over(shared, alone, request(2), 2)
    assert handed == run_leg(alone, StartLeg(3, request(2)))[0]


def test_a_prompt_that_one_process_computed_is_continued_by_two(
    alone: WorkerParts, shared: WorkerParts
) -> None:
    handed, _ = handed_over(alone, shared, request(4), 4)
    assert handed == run_leg(alone, StartLeg(5, request(4)))[0]


@pytest.mark.slow
@pytest.mark.parametrize("guessing", ["lookup", "model", "head"])
def test_two_processes_check_guesses_as_one_does(
    alone: WorkerParts, guessing: str, tmp_path: Path
) -> None:
    settings = {"speculate": "lookup"}
    if guessing == "model":
        settings = {"speculate": "model", "draft_model": str(DEMO)}
    elif guessing == "head":
        head = ReferenceHead(Shape(256, 256, vocab=4096)).save(tmp_path / "head")
        settings = {"speculate": "model", "draft_model": str(head)}
    with build(replace(SHARED, **settings)) as shared:
        leg = StartLeg(7, request(8))
        assert run_leg(shared, leg)[0] == run_leg(alone, leg)[0]


def test_the_end_of_a_rank_fails_the_step_and_is_told(shared: WorkerParts) -> None:
    assert shared.rank_lost is not None
    shared.core.apply(Join(1))
    shared.core.apply(Start(1, StartLeg(6, request(6))))
    plan = shared.core.begin_step()
    assert plan is not None
    (rank,) = ranks()
    rank.send_signal(signal.SIGKILL)
    assert shared.rank_lost.result(DEADLINE_S) == "rank 1 of the model ended, exit code -9"
    with pytest.raises(RankLostError):
        shared.core.run_step(plan)
    shared.core.fail_all("the engine failed")
    shared.core.check_integrity()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tensor_parallel": 0}, "tensor_parallel must be at least 1, is 0"),
        ({"tensor_parallel": 5}, "tensor_parallel 5 does not divide the model's"),
        ({"tensor_parallel": 2, "profile": "llama-3.1-8b@h200"}, "needs a real engine"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_starts(
    settings, complaint: str
) -> None:
    before = ranks()  # of a worker that the tests share
    with pytest.raises(ValueError, match=complaint), build(replace(ALONE, **settings)):
        pass
    assert ranks() == before


@pytest.mark.parametrize(
    ("has_nccl", "complaint"),
    [
        (False, "tensor_parallel 4 on GPUs needs a torch with NCCL"),
        (True, "tensor_parallel 4 from device cuda:1 on needs cuda:4; this host has 2 GPUs"),
    ],
)
def test_ranks_that_this_hosts_gpus_do_not_allow_are_refused(
    has_nccl: bool, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: has_nccl)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = ModelConfig.from_directory(DEMO)
    with contextlib.ExitStack() as stack, pytest.raises(ValueError, match=complaint):
        device = torch.device("cuda", 1)
        ModelRanks(4, stack).load(DEMO, config, torch.float32, device, fp8_kv=False)


@pytest.mark.parametrize("settings", [{"kv_device_path": "direct"}, {"host_kv_memory": "1MiB"}])
def test_ranks_with_memory_of_their_own_refuse_what_reads_one_processs_memory(
    settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = partial(ModelRanks, own_kv_on=frozenset({"cpu"}))
    monkeypatch.setattr("worker.build.ModelRanks", own)
    refused = pytest.raises(ValueError, match="is not for tensor_parallel 2 on GPUs")
    with refused, build(replace(SHARED, **settings)):
        pass
