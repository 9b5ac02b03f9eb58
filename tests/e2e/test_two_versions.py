"""A roll-out in the middle: two versions of a model in both pools, on real processes."""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from wire.messages import GenerateRequest, Role

OLD, NEW = "llama3", "qwen3"
TOKEN = "a-cluster-token-for-tests"
NUM_TOKENS = 8


@pytest.fixture
def start_version(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """A function that starts one more worker process, of another version, in a cluster."""
    running: list[subprocess.Popen[bytes]] = []

    def start(cluster: Any, model: Path, role: str, worker_id: str, served_name: str) -> None:
        command = [
            *(sys.executable, "-m", "baton", role, "--model", str(model), "--port", "0"),
            *("--worker-id", worker_id, "--served-model-name", served_name),
            *("--control-address", f"127.0.0.1:{cluster.control_port}"),
            *("--kv-memory", "64MiB", "--threads", "1", "--parent-pid", str(os.getpid())),
        ]
        environment = {**os.environ, "BATON_CLUSTER_TOKEN": TOKEN}
        with (tmp_path / f"{worker_id}.log").open("wb") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(30)


def roles(cluster: Any) -> Counter[tuple[str, Role]]:
    found = [worker.info for worker in cluster.status().workers if not worker.info.flipping]
    return Counter((info.fingerprint.revision, info.role) for info in found)


def wait_for(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
async def test_both_versions_stay_in_ratio_and_pair_only_among_themselves(
    model_directory: Callable[..., Any],
    start_cluster: Callable[..., Any],
    start_version: Callable[..., None],
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    cluster = await asyncio.to_thread(start_cluster, model_directory(OLD), prefill=2)
    status = await asyncio.to_thread(cluster.status)
    name = status.workers[0].info.fingerprint.model
    for role, worker_id in (("prefill", "new-0"), ("prefill", "new-1"), ("decode", "new-2")):
        start_version(cluster, model_directory(NEW), role, worker_id, name)
    await asyncio.to_thread(wait_for, lambda: sum(roles(cluster).values()) == 6)
    url = f"http://127.0.0.1:{cluster.operator_port}/api/v1"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = httpx.post(
        f"{url}/actions/ratio", json={"prefill": 1, "decode": 2}, headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    wanted = {(Role.PREFILL, 1), (Role.DECODE, 2)}

    def in_ratio() -> bool:
        counted = roles(cluster)
        revisions = {revision for revision, _ in counted}
        per_version = [
            {(role, counted[revision, role]) for role in Role} == wanted for revision in revisions
        ]
        return len(revisions) == 2 and all(per_version)

    await asyncio.to_thread(wait_for, in_ratio)
    router = await connect(cluster)
    kinds: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    for seed in range(12):
        prompt = prompt_of(120, seed)
        tokens, trace = await collect(router, greedy_request(f"v{seed}", prompt, NUM_TOKENS))
        answers = {version: reference(version, prompt, NUM_TOKENS) for version in (OLD, NEW)}
        versions[next(v for v, expected in answers.items() if expected == tokens)] += 1
        kinds[trace.kind] += 1
    assert kinds["remote"], "no request crossed from prefill to decode"

    view = httpx.get(f"{url}/status", timeout=60).json()
    assert {(group["prefill"], group["decode"]) for group in view["groups"]} == {(1, 2)}
    refusals = [pair["refusal"] for pair in view["pairs"] if pair["refusal"]]
    assert all("model files" in refusal for refusal in refusals)
    for worker_id in ("new-1", "new-2", "new-0"):  # whichever decodes: its group loses a role
        info = next(w for w in view["workers"] if w["worker_id"] == worker_id)
        if info["role"] == "prefill":
            body = {"worker_id": worker_id}
            httpx.post(
                f"{url}/actions/drain", json=body, headers=headers, timeout=60
            ).raise_for_status()
    await asyncio.to_thread(wait_for, lambda: len(cluster.status().workers) == 5)
    notes = " ".join(httpx.get(f"{url}/status", timeout=60).json()["notes"])
    assert "find no prefill worker that they pair with" in notes and "model files" in notes
