"""How much three routers that share through Redis find in the caches, against one router."""

import asyncio
import contextlib
import random
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from baton.up_config import DEMO_MODEL
from profiles.catalog import dump, load_profile
from router.candidates import WorkerState
from router.config import RouterConfig
from router.router import Router
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.block_hash import block_hashes
from wire.messages import GenerateRequest, SamplingParams

pytestmark = pytest.mark.slow
NUM_CONVERSATIONS, NUM_TURNS, NUM_ASKED_TOGETHER = 24, 3, 3
NUM_ROUNDS = 6
SHARED_TOKENS, TURN_TOKENS = 512, 96


@pytest.fixture(scope="module")
def cluster(
    start_cluster: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("profile") / "roomy.toml"
    lines = [
        line
        for line in dump(load_profile("llama-3.1-8b@h200")).splitlines()
        if not line.startswith(("load_s", "kv_tokens"))
    ]
    path.write_text("\n".join([*lines, "load_s = 0.1", "kv_tokens = 400000"]))
    started = start_cluster(DEMO_MODEL, "--profile", str(path), prefill=3, decode=3)
    yield started
    started.stop()


async def routers_of(cluster: Any, stack: Any, count: int, redis_url: str) -> list[Router]:
    routers = []
    for number in range(count):
        config = RouterConfig(
            control_address=f"127.0.0.1:{cluster.control_port}",
            cluster_token=cluster.token,
            client_id=f"replica-{count}-{bool(redis_url)}-{number}",
            redis_url=redis_url,
        )
        router = Router(config, SystemClock(), Metrics(GATEWAY_METRICS))
        await router.start()
        stack.push_async_callback(router.stop)
        routers.append(router)
    async with asyncio.timeout(30):
        while not all(_num_live(router) == 6 for router in routers):
            await asyncio.sleep(0.05)
    return routers


def _num_live(router: Router) -> int:
    return sum(view.state is WorkerState.LIVE for view in router.snapshot().workers)


async def hit_rate(routers: list[Router], seed: int, mean_gap_s: float) -> float:
    """Cached over all prompt tokens: some ask for each turn in short order, over all routers."""
    rng = random.Random(seed)
    turn = iter(range(10**9))
    num_cached = num_prompt = 0
    gate = asyncio.Semaphore(12)

    async def ask(prompt: tuple[int, ...]) -> None:
        nonlocal num_cached, num_prompt
        number = next(turn)
        sampling = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
        hashes = tuple(block_hashes(prompt))
        request = GenerateRequest(f"h{seed}-{number}", prompt, sampling, hashes)
        deltas = routers[number % len(routers)].generate(request)
        async with contextlib.aclosing(deltas):
            async for delta in deltas:
                cached = delta.num_cached_tokens
        num_cached, num_prompt = num_cached + cached, num_prompt + len(prompt)

    async def converse() -> None:
        tokens = [rng.randrange(5, 4000) for _ in range(SHARED_TOKENS)]
        async with gate:
            for _ in range(NUM_TURNS):
                tokens += [rng.randrange(5, 4000) for _ in range(TURN_TOKENS)]
                branches = [
                    (*tokens, *(rng.randrange(5, 4000) for _ in range(16)))
                    for _ in range(NUM_ASKED_TOGETHER)
                ]
                asking = []
                for branch in branches:
                    await asyncio.sleep(rng.expovariate(1 / mean_gap_s))
                    asking.append(asyncio.ensure_future(ask(branch)))
                await asyncio.gather(*asking)

    await asyncio.gather(*(converse() for _ in range(NUM_CONVERSATIONS)))
    return num_cached / num_prompt


@pytest.mark.parametrize("mean_gap_s", [0.1, 0.02])
async def test_three_replicas_keep_nine_tenths_of_one_routers_hit_rate(
    cluster: Any, redis_server: Any, mean_gap_s: float
) -> None:
    """mean_gap_s: between the requests of a turn, which go to different routers."""
    cases = {"one": (1, ""), "three": (3, redis_server.url), "three alone": (3, "")}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for seed in range(NUM_ROUNDS):
        for number, (name, (count, url)) in enumerate(cases.items()):
            async with contextlib.AsyncExitStack() as stack:
                routers = await routers_of(cluster, stack, count, url)
                found[name].append(await hit_rate(routers, 100 * seed + number, mean_gap_s))
    rates = {name: statistics.mean(values) for name, values in found.items()}
    print("hit rates:", rates, found)
    assert rates["three"] >= 0.9 * rates["one"], found
    await cluster.wait_idle()
