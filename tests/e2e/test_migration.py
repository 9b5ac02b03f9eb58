"""Running answers move between real workers, whatever they need to go on, whoever is killed."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import baton
from router.candidates import WorkerState
from wire.block_hash import block_hashes
from wire.cluster import ControlOrder, OrderKind
from wire.messages import GenerateRequest, Grammar, GrammarKind, Role, SamplingParams

MODEL = Path(baton.__file__).parent / "demo_model"
NUM_TOKENS = 160
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=NUM_TOKENS),
    "sampled": SamplingParams(
        temperature=0.8,
        top_p=0.9,
        repetition_penalty=1.1,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        seed=11,
        ignore_eos=True,
        max_tokens=NUM_TOKENS,
    ),
    "log-probabilities": SamplingParams(
        temperature=0.5, seed=4, top_logprobs=2, ignore_eos=True, max_tokens=NUM_TOKENS
    ),
    "grammar": SamplingParams(
        temperature=1.0,
        seed=8,
        max_tokens=NUM_TOKENS,
        grammar=Grammar(GrammarKind.REGEX, "([a-z]{2,8} ){600}"),
    ),
}
SLOW_WAYS = ("greedy", "log-probabilities")


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Any]) -> Any:
    return start_cluster(MODEL, "--dtype", "float32", decode=2)


@pytest.fixture
async def operator(cluster: Any, open_operator: Callable[..., Any]) -> Any:
    return open_operator(cluster)


@pytest.fixture
async def router(cluster: Any, connect: Callable[..., Any]) -> AsyncIterator[Any]:
    yield await connect(cluster, 3)
    await cluster.wait_idle()


def request_of(
    name: str, sampling: SamplingParams, num_prompt: int = 120, seed: int = 5
) -> GenerateRequest:
    generator = random.Random(seed)
    prompt = tuple(generator.randrange(10, 2000) for _ in range(num_prompt))
    return GenerateRequest(name, prompt, sampling, tuple(block_hashes(prompt)))


class Stream:
    """One request's deltas, gathered while a test does something to its workers."""

    def __init__(self, router: Any, request: GenerateRequest) -> None:
        self.tokens: list[int] = []
        self.logprobs: list[Any] = []
        self.trace: Any = None
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._run(router, request))

    async def has(self, num_tokens: int) -> None:
        while len(self.tokens) < num_tokens and self.trace is None:
            self._arrived.clear()
            await self._arrived.wait()

    async def end(self) -> "Stream":
        async with asyncio.timeout(60):
            await self._task
        return self

    async def _run(self, router: Any, request: GenerateRequest) -> None:
        async for delta in router.generate(request):
            self.tokens += delta.tokens
            self.logprobs += delta.logprobs
            self.trace = delta.trace or self.trace
            self._arrived.set()


async def decoder(router: Any, operator: Any) -> tuple[Any, Any]:
    """The decode worker that runs a leg of the router's, and the other one."""
    [source] = [w for w in router.snapshot().workers if w.role is Role.DECODE and w.num_legs]
    [other] = [name for name in await operator.ids(Role.DECODE) if name != source.worker_id]
    return await operator.info(source.worker_id), await operator.info(other)


async def migrate(operator: Any) -> None:
    for worker_id in await operator.ids(Role.DECODE):
        await operator.order(worker_id, ControlOrder(OrderKind.MIGRATE, count=1))


@pytest.mark.parametrize(
    "way",
    ["sampled", "grammar", *(pytest.param(way, marks=pytest.mark.slow) for way in SLOW_WAYS)],
)
async def test_a_moved_answer_is_the_one_that_stayed(way: str, router: Any, operator: Any) -> None:
    stayed = await Stream(router, request_of(f"{way}-stays", SAMPLINGS[way])).end()
    assert stayed.trace.moves == 0
    for attempt in range(6):  # on a busy host an answer may end before its worker hears the order
        moving = Stream(router, request_of(f"{way}-moves-{attempt}", SAMPLINGS[way]))
        for num_tokens in (10, 80):
            await moving.has(num_tokens)
            await migrate(operator)
        moved = await moving.end()
        check_equal(moved, stayed)
        if moved.trace.moves:
            return
    raise AssertionError("no answer was moved")


STILL_S = 1.5  # workers that stand still for much longer are taken for hung


@pytest.mark.parametrize("outcome", ["won", "lost"])
async def test_a_sampled_answer_is_the_same_whoever_of_two_placements_gives_it(
    outcome: str, cluster: Any, router: Any, connect: Callable[..., Any], operator: Any
) -> None:
    """Its first workers stand still until the second placement has won, or until there is one."""
    hedging = {"hedge": 1e-6, "hedge_min_ms": 50.0, "hedge_share": 1.0}
    hedged = await connect(cluster, 3, "predicted", **hedging)
    ids = [name for role in Role for name in await operator.ids(role)]
    pids = {name: (await operator.info(name)).pid for name in ids}
    sampling = replace(SAMPLINGS["sampled"], max_tokens=24)
    for number in range(8):  # on a busy host a first token may come before anybody is stopped
        request = request_of(f"{outcome}-{number}", sampling, 500, seed=number)
        ended = await raced(hedged, request, pids, wins=outcome == "won")
        alone = await Stream(router, replace(request, request_id=f"{outcome}-{number}-alone")).end()
        assert ended.tokens == alone.tokens and len(ended.tokens) == 24
        if ended.trace.hedge == outcome:
            return
    raise AssertionError(f"no second placement has {outcome}")


async def raced(router: Any, request: GenerateRequest, pids: dict[str, int], wins: bool) -> Stream:
    """wins: its second placement does, if there is one."""
    stream = Stream(router, request)
    try:
        await until(lambda: at_work(router), 30.0)
        first = at_work(router)
        signal_all(pids, first if wins else pids, signal.SIGSTOP)
        if not wins:
            await until(lambda: at_work(router) - first or stream.tokens, STILL_S)
            signal_all(pids, first, signal.SIGCONT)
        await until(lambda: stream.tokens, STILL_S)
    finally:
        signal_all(pids, pids, signal.SIGCONT)
    return await stream.end()


def at_work(router: Any) -> set[str]:
    return {worker.worker_id for worker in router.snapshot().workers if worker.num_legs}


async def until(is_so: Callable[[], object], within_s: float) -> None:
    """Returns in either case."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not is_so():
                await asyncio.sleep(0.001)


def signal_all(pids: dict[str, int], names: Iterable[str], number: signal.Signals) -> None:
    for name in names:
        os.kill(pids[name], number)


def check_equal(moved: Stream, stayed: Stream) -> None:
    assert moved.trace.attempts == 1
    assert moved.tokens == stayed.tokens
    assert len(moved.tokens) == NUM_TOKENS
    assert len(moved.logprobs) == len(stayed.logprobs)
    for one, other in zip(moved.logprobs, stayed.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


async def test_a_terminated_worker_hands_its_answers_over_and_ends(
    router: Any, operator: Any
) -> None:
    stayed = await Stream(router, request_of("t-stays", SAMPLINGS["sampled"])).end()
    for attempt in range(4):  # on a busy host answers may end before their worker hears of it
        requests = [request_of(f"t{attempt}-{i}", SAMPLINGS["sampled"]) for i in range(4)]
        streams = [Stream(router, request) for request in requests]
        for stream in streams:
            await stream.has(10)
        decoding = [w for w in router.snapshot().workers if w.role is Role.DECODE]
        busiest = max(decoding, key=lambda worker: worker.num_legs).worker_id
        os.kill((await operator.info(busiest)).pid, signal.SIGTERM)
        ended = [await stream.end() for stream in streams]
        assert all(stream.tokens == stayed.tokens for stream in ended)
        assert all(stream.trace.attempts == 1 for stream in ended)
        moved = [stream.trace for stream in ended if stream.trace.moves]
        assert all(trace.decode_worker != busiest for trace in moved)
        await back(router)
        if moved:
            return
    raise AssertionError("no answer was handed over")


async def back(router: Any) -> None:
    """Waits until the router has both decode workers; a restart after others takes its time."""
    async with asyncio.timeout(60):
        while sum(_is_live(worker) for worker in router.snapshot().workers) < 2:
            await asyncio.sleep(0.02)


def _is_live(worker: Any) -> bool:
    return worker.role is Role.DECODE and worker.state is WorkerState.LIVE


@pytest.mark.slow
async def test_a_target_that_never_answers_costs_the_stream_nothing(
    router: Any, operator: Any
) -> None:
    stayed = await Stream(router, request_of("k-stays", SAMPLINGS["sampled"])).end()
    stream = Stream(router, request_of("k", SAMPLINGS["sampled"]))
    await stream.has(10)
    source, target = await decoder(router, operator)
    os.kill(target.pid, signal.SIGSTOP)
    await operator.order(source.worker_id, ControlOrder(OrderKind.MIGRATE, count=1))
    await stream.has(60)
    os.kill(target.pid, signal.SIGKILL)
    ended = await stream.end()
    assert ended.tokens == stayed.tokens
    assert (ended.trace.moves, ended.trace.attempts) == (0, 1)
    await back(router)


async def is_read(stream: Stream, operator: Any, worker_id: str) -> bool:
    """Until the worker has published an answer's blocks; False when the answer ended before."""
    while stream.trace is None:
        if (await operator.report(worker_id)).num_exports:
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.slow
async def test_a_source_that_dies_while_it_is_read_is_taken_over(
    router: Any, operator: Any
) -> None:
    stayed = await Stream(router, request_of("s-stays", SAMPLINGS["sampled"])).end()
    for attempt in range(6):  # on a busy host an answer may end before it is read
        stream = Stream(router, request_of(f"s-{attempt}", SAMPLINGS["sampled"]))
        await stream.has(10)
        source, target = await decoder(router, operator)
        os.kill(target.pid, signal.SIGSTOP)
        await operator.order(source.worker_id, ControlOrder(OrderKind.MIGRATE, count=1))
        if await is_read(stream, operator, source.worker_id):
            break
        os.kill(target.pid, signal.SIGCONT)
    os.kill(source.pid, signal.SIGKILL)
    os.kill(target.pid, signal.SIGCONT)
    ended = await stream.end()
    assert ended.tokens == stayed.tokens
    # It goes on where it is, or is placed again where the target had no block yet.
    assert (ended.trace.moves, ended.trace.attempts) in ((1, 1), (0, 2))
    await back(router)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["source", "target"])
async def test_a_kill_at_any_moment_of_a_migration_changes_no_token(
    victim: str,
    start_cluster: Callable[..., Any],
    connect: Callable[..., Any],
    open_operator: Callable[..., Any],
) -> None:
    """On a cluster of its own: a worker that dies again and again is given up."""
    cluster = await asyncio.to_thread(start_cluster, MODEL, "--dtype", "float32", decode=2)
    router, operator = await connect(cluster, 3), open_operator(cluster)
    stayed = await Stream(router, request_of("a-stays", SAMPLINGS["sampled"])).end()
    generator = random.Random(3)
    for number in range(3):
        stream = Stream(router, request_of(f"{victim}{number}", SAMPLINGS["sampled"]))
        await stream.has(10)
        pair = dict(zip(("source", "target"), await decoder(router, operator), strict=True))
        worker_id = pair["source"].worker_id
        await operator.order(worker_id, ControlOrder(OrderKind.MIGRATE, count=1))
        await asyncio.sleep(generator.uniform(0.0, 0.02))
        os.kill(pair[victim].pid, signal.SIGKILL)
        assert (await stream.end()).tokens == stayed.tokens
        await back(router)
