"""The good paths of a request: remote, local, degraded, and their ends."""

import asyncio

import pytest
from scripted_cluster import FINGERPRINT, answer, collect, expected, make_request, until

from router.config import RouterConfig
from router.router import Router
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, LegTokens, Role


async def test_a_remote_request_passes_from_prefill_to_decode(start_cluster):
    cluster = await start_cluster()
    request = make_request()
    tokens, last = await collect(cluster, request)
    assert tokens == expected(request)
    assert last.finish_reason is FinishReason.LENGTH
    assert (last.trace.prefill_worker, last.trace.decode_worker) == ("p0", "d0")
    assert (last.trace.kind, last.trace.attempts) == ("remote", 1)
    assert last.trace.queue_s == pytest.approx(0.01)
    assert last.trace.prefill_s == pytest.approx(0.02)
    assert last.trace.exposed_s == pytest.approx(0.001)
    assert cluster["p0"].started[0].prefill_only
    assert cluster["d0"].started[0].handle.worker_id == "p0"
    await cluster.idle()
    assert cluster.metric("baton_placements_total", kind="remote") == 1
    assert cluster.metric("baton_transfers_total", transport="shm", outcome="ok") == 1


async def test_decode_starts_to_pull_while_prefill_still_computes(start_cluster):
    cluster = await start_cluster()
    cluster["p0"].pause("prefilled")
    task = asyncio.create_task(collect(cluster, make_request()))
    await cluster["d0"].reached("pulled")
    cluster["p0"].resume("prefilled")
    assert (await task)[0] == expected(make_request())
    await cluster.idle()


async def test_the_first_token_does_not_wait_for_the_transfer(start_cluster):
    cluster = await start_cluster()
    cluster["d0"].pause("pulled")
    request = make_request()
    deltas = cluster.router.generate(request)
    first = await anext(deltas)
    assert first.tokens == (answer(request.prompt_tokens, 0),)
    cluster["d0"].resume("pulled")
    rest = [token async for delta in deltas for token in delta.tokens]
    assert rest == expected(request)[1:]
    await cluster.idle()


async def test_a_first_token_that_ends_the_answer_cancels_the_decode_leg(start_cluster):
    cluster = await start_cluster()
    cluster["d0"].pause("pulled")
    request = make_request(stop=(answer(make_request().prompt_tokens, 0),))
    tokens, last = await collect(cluster, request)
    assert tokens == expected(request)[:1]
    assert last.finish_reason is FinishReason.STOP
    await until(lambda: len(cluster["d0"].started) == 1 == len(cluster["d0"].cancelled))
    await cluster.idle()


async def test_a_stop_token_mid_stream_ends_the_answer(start_cluster):
    cluster = await start_cluster()
    request = make_request(stop=(answer(make_request().prompt_tokens, 4),))
    tokens, last = await collect(cluster, request)
    assert tokens == expected(request)[:5]
    assert last.finish_reason is FinishReason.STOP
    await cluster.idle()


async def test_early_tokens_wait_for_the_gap_and_duplicates_are_dropped(start_cluster):
    cluster = await start_cluster()
    cluster["d0"].pause("token:1")
    request = make_request()
    task = asyncio.create_task(collect(cluster, request))
    await cluster["d0"].reached("token:1")
    leg_id = cluster["d0"].last_leg_id()
    want = expected(request)
    cluster["d0"].send(LegTokens(leg_id, 3, tuple(want[3:5])))
    cluster["d0"].send(LegTokens(leg_id, 0, tuple(want[:2])))
    cluster["d0"].resume("token:1")
    assert (await task)[0] == want
    await cluster.idle()


async def test_a_short_prompt_is_computed_on_the_decode_worker(start_cluster):
    cluster = await start_cluster(local_prefill_max_tokens=64)
    request = make_request(num_tokens=40)
    tokens, last = await collect(cluster, request)
    assert tokens == expected(request)
    assert (last.trace.kind, last.trace.prefill_worker) == ("local", "")
    assert cluster["p0"].started == []
    assert cluster["d0"].started[0].handle is None
    await cluster.idle()


async def test_a_prefix_that_the_decode_worker_confirmed_makes_the_rest_local(start_cluster):
    cluster = await start_cluster()
    request = make_request(num_tokens=200)
    cluster["d0"].store(request.block_hashes)
    await until(lambda: cluster.router.snapshot().workers[1].num_prefix_blocks == 12)
    _, last = await collect(cluster, request)
    assert last.trace.kind == "local"
    await cluster.idle()


async def test_a_prefix_that_was_only_just_routed_does_not_make_the_rest_local(start_cluster):
    cluster = await start_cluster()
    await collect(cluster, make_request())
    _, last = await collect(cluster, make_request())
    assert last.trace.kind == "remote"
    await cluster.idle()


async def test_an_answer_of_one_token_stays_on_the_prefill_worker(start_cluster):
    cluster = await start_cluster()
    request = make_request(max_tokens=1)
    tokens, last = await collect(cluster, request)
    assert tokens == expected(request)
    assert (last.trace.kind, last.trace.decode_worker) == ("local", "p0")
    assert not cluster["p0"].started[0].prefill_only
    assert cluster["d0"].started == []
    await cluster.idle()


@pytest.mark.parametrize(("num_prefill", "num_decode", "worker"), [(0, 1, "d0"), (1, 0, "p0")])
async def test_an_empty_pool_degrades(start_cluster, num_prefill, num_decode, worker):
    cluster = await start_cluster(num_prefill, num_decode)
    tokens, last = await collect(cluster, make_request())
    assert tokens == expected(make_request())
    assert (last.trace.kind, last.trace.decode_worker) == ("degraded", worker)
    assert cluster.metric("baton_placements_total", kind="degraded") == 1
    await cluster.idle()


async def test_workers_of_different_fingerprints_do_not_pair(start_cluster):
    cluster = await start_cluster(1, 0)
    other = type(FINGERPRINT)("tiny", "r2", "float32", 16, FINGERPRINT.kv_layout)
    await cluster.add("d0", Role.DECODE, fingerprint=other)
    await cluster.all_live()
    _, last = await collect(cluster, make_request())
    assert (last.trace.kind, last.trace.decode_worker) == ("degraded", "d0")
    assert cluster["p0"].started == []
    await cluster.idle()


async def test_cached_tokens_of_the_prefill_worker_are_told(start_cluster):
    cluster = await start_cluster()
    cluster["p0"].num_cached_tokens = 48
    _, last = await collect(cluster, make_request())
    assert last.num_cached_tokens == 48
    await cluster.idle()


async def test_a_burst_spreads_over_decode_workers_before_any_report(start_cluster):
    cluster = await start_cluster(1, 4)
    cluster["p0"].pause("published")
    requests = [make_request(start=1000 * i) for i in range(8)]
    tasks = [asyncio.create_task(collect(cluster, request)) for request in requests]
    await until(lambda: len(cluster["p0"].started) == 8)
    cluster["p0"].resume("published")
    for task, request in zip(tasks, requests, strict=True):
        assert (await task)[0] == expected(request)
    assert [len(cluster[f"d{i}"].started) for i in range(4)] == [2, 2, 2, 2]
    await cluster.idle()


async def test_many_requests_at_once_each_get_their_own_answer(start_cluster):
    cluster = await start_cluster(2, 2)
    requests = [make_request(num_tokens=30 + 10 * i, start=i) for i in range(40)]
    results = await asyncio.gather(*(collect(cluster, request) for request in requests))
    for (tokens, _), request in zip(results, requests, strict=True):
        assert tokens == expected(request)
    await cluster.idle()


@pytest.mark.parametrize("code", [ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_LENGTH_EXCEEDED])
async def test_a_refusal_that_no_worker_would_lift_is_raised_at_once(start_cluster, code):
    cluster = await start_cluster()
    cluster["p0"].failures["accepted"] = code
    with pytest.raises(BatonError) as caught:
        await collect(cluster, make_request())
    assert caught.value.code is code
    assert len(cluster["p0"].started) == 1
    assert cluster["d0"].started == []
    await cluster.idle()


async def test_an_empty_prompt_and_no_tokens_wanted_are_refused(start_cluster):
    cluster = await start_cluster()
    for request in (make_request(num_tokens=0), make_request(max_tokens=0)):
        with pytest.raises(BatonError) as caught:
            cluster.router.generate(request)
        assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_with_a_profile_the_first_request_is_predicted(start_cluster):
    cold, warm = await start_cluster(), await start_cluster(profile="llama-3.1-8b@h200")
    for cluster, is_warm in ((cold, False), (warm, True)):
        _, last = await collect(cluster, make_request())
        assert (last.trace.predicted is not None) is is_warm
        await cluster.idle()


def test_a_profile_that_there_is_none_of_is_named():
    config = RouterConfig(control_address="127.0.0.1:1", client_id="test", profile="gpt@abacus")
    with pytest.raises(ValueError, match="'gpt@abacus' is no profile"):
        Router(config, SystemClock(), Metrics(GATEWAY_METRICS))
