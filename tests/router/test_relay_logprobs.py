"""Log-probabilities over two workers: one for each token, in order, whoever gives it first."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from scripted_cluster import collect, expected, make_request, until

from router.stitcher import Stitcher
from wire.errors import ErrorCode
from wire.messages import GenerateRequest, TokenLogprobs


def wanting(max_tokens: int = 8) -> GenerateRequest:
    request = make_request(max_tokens=max_tokens)
    return replace(request, sampling=replace(request.sampling, top_logprobs=0))


async def both(cluster: Any, request: GenerateRequest) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    logprobs: list[float] = []
    async for delta in cluster.router.generate(request):
        assert len(delta.tokens) == len(delta.logprobs)
        tokens += delta.tokens
        logprobs += [one.logprob for one in delta.logprobs]
    return tokens, logprobs


def in_order(request: GenerateRequest) -> tuple[list[int], list[float]]:
    return expected(request), [float(-i) for i in range(request.sampling.max_tokens)]


async def test_each_token_of_a_remote_request_has_its_own(start_cluster):
    cluster = await start_cluster()
    assert await both(cluster, wanting()) == in_order(wanting())
    await cluster.idle()


async def test_requests_that_do_not_ask_have_none(start_cluster):
    cluster = await start_cluster()
    deltas = [delta async for delta in cluster.router.generate(make_request())]
    assert not any(delta.logprobs for delta in deltas)
    await cluster.idle()


@pytest.mark.parametrize("max_tokens", [2, 8])
async def test_decode_may_end_before_prefill_gives_its_token(start_cluster, max_tokens):
    cluster = await start_cluster()
    cluster["p0"].pause("token:0")
    request = wanting(max_tokens)
    task = asyncio.create_task(both(cluster, request))
    await cluster["d0"].reached(f"token:{max_tokens - 1}")
    await until(lambda: not cluster["d0"].num_active)
    cluster["p0"].resume("token:0")
    assert await task == in_order(request)
    await cluster.idle()


async def test_a_prefill_worker_lost_with_its_token_is_placed_again(start_cluster):
    cluster = await start_cluster(num_prefill=2)
    cluster["p0"].failures["token:0"] = ErrorCode.WORKER_LOST
    cluster["p1"].failures["token:0"] = ErrorCode.WORKER_LOST
    request = wanting()
    task = asyncio.create_task(both(cluster, request))
    await until(lambda: bool(cluster["p0"].started or cluster["p1"].started))
    cluster["p0"].failures.clear()
    cluster["p1"].failures.clear()
    assert await task == in_order(request)
    await cluster.idle()


async def test_a_failed_transfer_gives_every_token_once(start_cluster):
    cluster = await start_cluster()
    cluster.fabric.fail_next = "torn"
    assert await both(cluster, wanting()) == in_order(wanting())
    await cluster.idle()


async def test_a_stream_that_moves_keeps_its_log_probabilities(start_cluster):
    cluster = await start_cluster(num_decode=2)
    request = wanting()
    for worker in ("d0", "d1"):
        cluster[worker].failures["token:4"] = ErrorCode.WORKER_LOST
    task = asyncio.create_task(both(cluster, request))
    await until(lambda: bool(cluster["d0"].started or cluster["d1"].started))
    started = "d0" if cluster["d0"].started else "d1"
    await cluster[started].reached("token:4")
    for worker in ("d0", "d1"):
        cluster[worker].failures.clear()
    assert await task == in_order(request)
    await cluster.idle()


def test_a_stitcher_gives_log_probabilities_with_their_tokens() -> None:
    stitcher = Stitcher()
    stitcher.note_logprobs(1, (TokenLogprobs(-1), TokenLogprobs(-2)))
    assert stitcher.push(1, (11, 12)) == ()
    stitcher.note_logprobs(0, (TokenLogprobs(-0.5), TokenLogprobs(-99)))
    assert stitcher.push(0, (10, 11)) == (10, 11, 12)
    assert [one.logprob for one in stitcher.take_logprobs(3)] == [-0.5, -1, -2]
    assert stitcher.take_logprobs(3) == ()


async def test_a_plain_answer_still_ends_with_its_trace(start_cluster):
    cluster = await start_cluster()
    tokens, last = await collect(cluster, wanting())
    assert tokens == expected(wanting())
    assert last.trace.kind == "remote"
    await cluster.idle()
