"""Roles flip under load between real processes; every stream stays complete and identical."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from wire.messages import GenerateRequest, Role

LONG = 600
FLIPS_PER_STREAM = 12
MAX_ROUNDS = 8


@pytest.fixture(scope="module")
def cluster(model_directory: Callable[..., Any], start_cluster: Callable[..., Any]) -> Any:
    return start_cluster(model_directory("qwen3"), decode=2)


@pytest.fixture
async def operator(cluster: Any, open_operator: Callable[..., Any]) -> AsyncIterator[Any]:
    """An operator; each worker has its first role again when the test ends."""
    one = open_operator(cluster)
    yield one
    for role, other in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
        for worker_id in await one.ids(role):
            if worker_id.startswith(other.value):
                await one.flip(worker_id, other)
    await cluster.wait_idle()


async def test_workers_flip_there_and_back_while_their_answers_go_on_elsewhere(
    cluster: Any,
    operator: Any,
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    router = await connect(cluster, 3)
    prompts = [prompt_of(60 + 40 * i, i) for i in range(6)]
    num_moves = rounds = 0
    while not num_moves:  # a host may be so busy that answers end before the order comes
        begun = asyncio.Event()
        streams = [
            asyncio.create_task(
                collect(
                    router,
                    greedy_request(f"r{rounds}-{i}", prompt, LONG),
                    lambda n, begun=begun: begun.set() if n > 5 else None,
                )
            )
            for i, prompt in enumerate(prompts)
        ]
        await begun.wait()
        decoding = [found for found in router.snapshot().workers if found.role is Role.DECODE]
        busiest = max(decoding, key=lambda found: found.num_legs).worker_id
        await operator.flip(busiest, Role.PREFILL)
        await operator.flip(busiest, Role.DECODE)
        results = await asyncio.gather(*streams)
        for prompt, (tokens, trace) in zip(prompts, results, strict=True):
            assert tokens == reference("qwen3", prompt, LONG)
            assert trace.attempts == 1, "a running answer moves, it is not placed again"
        num_moves, rounds = sum(trace.moves for _, trace in results), rounds + 1
        assert num_moves or rounds < MAX_ROUNDS


async def test_the_last_worker_of_a_pool_may_flip(
    cluster: Any,
    operator: Any,
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    router = await connect(cluster, 3)
    await operator.flip("prefill-0", Role.DECODE)
    [trace] = await ask_exactly(router, [prompt_of(150, 50)], 20)
    assert trace.prefill_worker == ""
    for worker_id in ("prefill-0", "decode-0", "decode-1"):
        await operator.flip(worker_id, Role.PREFILL)
    [trace] = await ask_exactly(router, [prompt_of(150, 51)], 60)
    assert trace.kind == "degraded"


async def test_a_worker_that_flips_is_placed_in_its_new_role_and_known_as_before(
    cluster: Any,
    operator: Any,
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    router = await connect(cluster, 3, "predicted")
    names = itertools.count()

    def outlooks() -> dict[tuple[Role, str], Any]:
        view = router._sessions.view()
        return {
            (found.role, found.worker_id): found.outlook for found in view.prefill + view.decode
        }

    async def ask() -> Any:
        number = next(names)
        prompt = prompt_of(64 + 32 * (number % 7), 300 + number)
        [trace] = await ask_exactly(router, [prompt], 40)
        return trace

    async with asyncio.timeout(60):
        while None in outlooks().values():
            await asyncio.gather(*(ask() for _ in range(6)))
    known = router._sessions.get("decode-0").forecast
    await operator.flip("decode-0", Role.PREFILL)
    async with asyncio.timeout(30):
        while (Role.PREFILL, "decode-0") not in outlooks():
            await asyncio.sleep(0.01)
    found = outlooks()
    assert None not in found.values(), "a flip made a predictor cold"
    assert (Role.DECODE, "decode-0") not in found
    assert router._sessions.get("decode-0").forecast is known
    traces = [await ask() for _ in range(4)]
    assert all(trace.predicted is not None for trace in traces), "placed by prediction"
    roles = {worker.worker_id: worker.role for worker in router.snapshot().workers}
    assert roles["decode-0"] is Role.PREFILL


@pytest.mark.parametrize("policy", ["uncached_tokens", "predicted"])
@pytest.mark.parametrize(
    "num_flips",
    [12, pytest.param(1000, marks=(pytest.mark.slow, pytest.mark.timeout(1200)))],
)
async def test_flips_under_load_lose_double_and_change_no_token(
    num_flips: int,
    policy: str,
    cluster: Any,
    operator: Any,
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    router = await connect(cluster, 3, policy)
    prompts = [prompt_of(40 + 30 * i, 70 + i) for i in range(4)]
    expected = [reference("qwen3", prompt, LONG) for prompt in prompts]
    is_over = asyncio.Event()
    names = itertools.count()

    async def stream(index: int) -> int:
        num_moves = 0
        while not is_over.is_set():
            request = greedy_request(f"f{next(names)}", prompts[index], LONG)
            tokens, trace = await collect(router, request)
            assert tokens == expected[index]
            num_moves += trace.moves
        return num_moves

    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(stream(index)) for index in range(len(prompts))]
        for number in range(num_flips):
            worker_id = ("decode-0", "decode-1", "prefill-0")[number // 2 % 3]
            info = await operator.info(worker_id)
            role = Role.DECODE if info.role is Role.PREFILL else Role.PREFILL
            await operator.flip(worker_id, role)
        is_over.set()
    assert sum(task.result() for task in streams) >= num_flips // FLIPS_PER_STREAM
    router.check_integrity()
    await cluster.wait_idle()
