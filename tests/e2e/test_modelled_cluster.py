"""A cluster of modelled workers through the real processes, as `baton up --profile` starts it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.commands.profile import fitted_profile
from baton.up_config import DEMO_MODEL
from profiles.catalog import dump, load_profile
from router.recording import Listed, read_recording
from runtime.lifecycle import free_port
from simulate.replay import replay
from wire.block_hash import block_hashes
from wire.messages import FinishReason, GenerateRequest, Role, SamplingParams
from wire.packed import unpack_snapshot
from wire.router_messages import PlaceCall, PlaceReply
from wire.router_rpc import SERVICE, RouterClient
from wire.rpc import TOKEN_HEADER, open_channel

PROMPT = [5 + i % 4000 for i in range(2000)]


@pytest.fixture(scope="module")
def cluster(
    start_cluster: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("profile") / "slow.toml"
    text = dump(load_profile("llama-3.1-8b@h200"))
    lines = [line for line in text.splitlines() if not line.startswith(("load_s", "kv_tokens"))]
    path.write_text("\n".join([*lines, "load_s = 0.1", "kv_tokens = 20000"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATON_RECORDING", str(path.parent / "recording.jsonl"))
        started = start_cluster(DEMO_MODEL, "--profile", str(path), prefill=2, decode=2)
    started.recording = path.parent / "recording.jsonl"
    yield started
    started.stop()


def complete(cluster: Any, prompt: list[int]) -> tuple[str, float, int]:
    """Text, seconds, and how many tokens of the prompt were cached."""
    body = {"model": "slow", "prompt": prompt, "max_tokens": 12, "ignore_eos": True}
    started_s = time.monotonic()
    answer = httpx.post(f"{cluster.url}/v1/completions", json=body, timeout=30).json()
    taken_s = time.monotonic() - started_s
    num_cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["text"], taken_s, num_cached


async def test_requests_take_the_profiles_time_and_the_prefix_cache_is_real(cluster: Any) -> None:
    profile = load_profile("llama-3.1-8b@h200")
    text, cold_s, none = complete(cluster, PROMPT)
    again, warm_s, most = complete(cluster, PROMPT)
    assert text == again and text.strip()
    prefill_s, decode_s = profile.chunk_s(0, len(PROMPT)), 11 * profile.step_s
    assert cold_s >= prefill_s + decode_s
    assert decode_s <= warm_s
    assert none == 0 and most > 0.9 * len(PROMPT)
    await cluster.wait_idle()


@contextlib.contextmanager
def router_process(cluster: Any, directory: Path, name: str) -> Iterator[str]:
    """A router of its own beside the cluster's gateway, started as `name`; its address."""
    port = free_port()
    control = f"127.0.0.1:{cluster.control_port}"
    command = [sys.executable, "-m", *name.split()]
    if name == "router":
        settings = directory / "router.toml"
        lines = f'port = {port}\ncontrol_address = "{control}"\npolicy = "uncached_tokens"\n'
        settings.write_text(f"[router]\n{lines}")
        command.append(str(settings))
    else:
        command += ["--port", str(port), "--control-address", control]
        command += ["--policy", "uncached_tokens"]
    environment = {**os.environ, "BATON_CLUSTER_TOKEN": cluster.token}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (directory / "log").read_text()[-4000:]


async def serving(channel: Any, token: str) -> None:
    """Until the health service says so, as an orchestrator asks."""
    stub = health_pb2_grpc.HealthStub(channel)
    call = health_pb2.HealthCheckRequest(service=SERVICE)
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(call, metadata=((TOKEN_HEADER, token),))
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(0.05)


async def placed_apart(client: RouterClient, names: set[str]) -> tuple[PlaceReply, PlaceReply]:
    """Placements a and b, on both of the decode workers as soon as the router has met them."""
    async with asyncio.timeout(60):
        while True:
            first = await client.place(PlaceCall("a", tuple(range(600, 1200))))
            second = await client.place(PlaceCall("b", num_tokens=600))
            if {first.decode.worker_id, second.decode.worker_id} == names:
                return first, second
            for place_id in ("a", "b"):
                await client.release(place_id)


@pytest.mark.parametrize("name", ["router", "baton router"])
async def test_a_router_of_its_own_places_and_generates_on_the_clusters_workers(
    cluster: Any, tmp_path: Path, name: str
) -> None:
    prompt = tuple(PROMPT[:600])
    with router_process(cluster, tmp_path, name) as address:
        channel = open_channel(address)
        client = RouterClient(channel, cluster.token)
        try:
            await serving(channel, cluster.token)
            status = await asyncio.to_thread(cluster.status)
            listed = {worker.info.worker_id: worker.info for worker in status.workers}
            decoding = {name for name, info in listed.items() if info.role is Role.DECODE}
            for reply in await placed_apart(client, decoding):
                found = listed[reply.decode.worker_id]
                assert found.epoch == reply.decode.epoch
                assert found.address == reply.decode.address
            await client.started("a")
            for place_id in ("a", "b"):
                await client.release(place_id)
            sampling = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
            request = GenerateRequest("g", prompt, sampling, tuple(block_hashes(prompt)))
            deltas = [delta async for delta in client.generate(request)]
            assert sum(len(delta.tokens) for delta in deltas) == 12
            assert deltas[-1].finish_reason is FinishReason.LENGTH
            assert deltas[-1].decode_worker in listed
        finally:
            await channel.close(None)
    await cluster.wait_idle()


async def stream(client: httpx.AsyncClient, url: str, number: int) -> int:
    """Asks for 40 tokens of a prompt that shares its beginning with others'; every fifth leaves."""
    prompt = [*PROMPT[: 400 * (number % 4)], *(7 + number for _ in range(300))]
    body = {"model": "slow", "prompt": prompt, "max_tokens": 40, "ignore_eos": True, "stream": True}
    num_events = 0
    async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            num_events += line.startswith("data: {")
            if number % 5 == 4 and num_events > 3:
                break
    return num_events


async def test_a_profile_is_fitted_from_the_single_steps_of_live_workers(cluster: Any) -> None:
    """How near it comes to the profile that is played is for quiet hosts: baton bench simulate."""

    async def keep_asking(client: httpx.AsyncClient) -> None:
        while True:
            await asyncio.gather(*(stream(client, cluster.url, number) for number in range(1, 9)))

    address = f"127.0.0.1:{cluster.control_port}"
    async with httpx.AsyncClient(timeout=60) as client:
        load = asyncio.create_task(keep_asking(client))
        try:
            deadline = time.monotonic() + 60
            while True:
                profile, fit = await fitted_profile("fitted", address, cluster.token, 2.0, 10**9)
                if profile.scatter.decode:
                    break
                assert time.monotonic() < deadline, fit
        finally:
            load.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await load
    assert fit.num_samples >= len(profile.scatter.decode) == 50
    assert profile.kv_tokens <= 20000 and profile.step_s > 0
    await cluster.wait_idle()


async def test_a_recorded_run_is_placed_alike_offline_a_killed_worker_included(
    cluster: Any,
) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        sending = [asyncio.create_task(stream(client, cluster.url, i)) for i in range(40)]
        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        victim, _ = await asyncio.to_thread(cluster.workers, Role.DECODE)
        os.kill(victim.info.pid, signal.SIGKILL)
        counts = await asyncio.gather(*sending)
    assert min(counts) > 3
    await cluster.wait_idle()
    wanted = {"Listed", "FrameCame", "Reserved", "Started", "Cancelled"}
    lives = (victim.info.worker_id, victim.info.epoch)
    deadline = time.monotonic() + 60
    kinds = kinds_of(cluster)
    while wanted - set(kinds) or kinds["Placed"] < 40 or lives in last_listed(cluster):
        assert time.monotonic() < deadline, (kinds, last_listed(cluster))
        await asyncio.sleep(0.2)
        kinds = kinds_of(cluster)
    assert replay(cluster.recording).differences == []


def kinds_of(cluster: Any) -> Counter[str]:
    return Counter(type(entry).__name__ for entry in read_recording(cluster.recording))


def last_listed(cluster: Any) -> set[tuple[str, int]]:
    """The worker processes of the registry's last list."""
    entries = read_recording(cluster.recording)
    lists = [entry.snapshot for entry in entries if isinstance(entry, Listed)]
    return {(info.worker_id, info.epoch) for info in unpack_snapshot(lists[-1]).workers}


def test_a_profile_that_does_not_exist_is_said_before_anything_starts(
    start_cluster: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="is no profile"):
        start_cluster(DEMO_MODEL, "--profile", "llama-9@h900")
