"""Lost, hung, failing and cancelled legs: the client's stream stays complete and identical."""

import asyncio
import contextlib
import time

import pytest
from scripted_cluster import answer, collect, expected, make_request, until, with_tokens

from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, Role

QUICK = {"heartbeat_timeout_s": 0.4, "step_timeout_s": 0.6, "rescue_s": 0.2}


async def start_at(cluster, worker_id, stage, request):
    """Begins a request and stops it where `stage` of the worker begins."""
    cluster[worker_id].pause(stage)
    task = asyncio.create_task(collect(cluster, request))
    await cluster[worker_id].reached(stage)
    return task


@pytest.mark.parametrize("stage", ["accepted", "published"])
async def test_a_prefill_worker_killed_before_it_publishes_is_replaced(start_cluster, stage):
    cluster = await start_cluster(2, 1)
    cluster["p0"].pause(stage)
    cluster["p1"].pause(stage)
    task = asyncio.create_task(collect(cluster, make_request()))
    await until(lambda: cluster["p0"].num_active + cluster["p1"].num_active == 1)
    first, other = ("p0", "p1") if cluster["p0"].num_active else ("p1", "p0")
    await cluster[first].reached(stage)
    cluster[other].resume(stage)
    await cluster[first].kill()
    tokens, last = await task
    assert tokens == expected(make_request())
    assert last.trace.prefill_worker == other
    assert last.trace.attempts == 2
    assert cluster.metric("baton_retries_total", reason="worker_lost") == 1
    await cluster.idle()


@pytest.mark.parametrize("stage", ["prefilled", "token:0", "finished"])
async def test_a_prefill_worker_killed_behind_its_handle_leaves_decode_to_recompute(
    start_cluster, stage
):
    cluster = await start_cluster(2, 1)
    for name in ("p0", "p1"):
        cluster[name].pause(stage)
    if stage == "finished":
        cluster["d0"].pause("token:3")
    task = asyncio.create_task(collect(cluster, make_request()))
    await until(lambda: bool(cluster["d0"].started))
    first = cluster["d0"].started[0].handle.worker_id
    await cluster[first].reached(stage)
    await cluster[first].kill()
    if stage == "finished":
        cluster["d0"].resume("token:3")
    tokens, last = await task
    assert tokens == expected(make_request())
    assert last.trace.attempts == 1
    assert len(cluster["d0"].started) == 1
    await cluster.idle()


async def test_a_prefill_worker_that_dies_while_decode_does_not_notice_is_left(start_cluster):
    cluster = await start_cluster(1, 1, **QUICK)
    task = await start_at(cluster, "p0", "prefilled", make_request())
    await cluster["d0"].reached("pulled")
    cluster["p0"].freeze()
    tokens, last = await task
    assert tokens == expected(make_request())
    assert (last.trace.kind, last.trace.attempts) == ("degraded", 2)
    cluster["p0"].thaw()
    cluster["p0"].resume("prefilled")
    await cluster.idle()


async def test_a_prefill_worker_that_hangs_before_its_kv_is_pulled_is_left(start_cluster):
    cluster = await start_cluster(1, 1, **QUICK)
    cluster["d0"].pause("pulled")
    got = []
    task = asyncio.create_task(collect(cluster, make_request(), got))
    await until(lambda: len(got) == 1 and cluster["p0"].num_active == 0)
    cluster["p0"].freeze()
    await until(lambda: len(cluster["d0"].started) == 2)
    cluster["d0"].resume("pulled")
    tokens, last = await task
    assert tokens == expected(make_request())
    assert (last.trace.kind, last.trace.decode_worker) == ("degraded", "d0")
    cluster["p0"].thaw()
    await cluster.idle()


async def test_a_failed_transfer_is_told_and_its_export_is_given_back(start_cluster):
    cluster = await start_cluster(1, 1)
    cluster["d0"].pause("pulled")
    task = asyncio.create_task(collect(cluster, make_request()))
    await cluster["d0"].reached("pulled")
    cluster.fabric.fail_next = "the link broke"
    cluster["d0"].resume("pulled")
    tokens, last = await task
    assert tokens == expected(make_request())
    assert last.trace.transfer_failure == "the link broke"
    assert cluster.metric("baton_transfers_total", transport="shm", outcome="failed") == 1
    await until(lambda: cluster["p0"].cancelled == [cluster["p0"].last_leg_id()])
    await cluster.idle()


@pytest.mark.parametrize("index", [0, 1, 4, 6, 7])
async def test_a_decode_worker_killed_mid_stream_is_replaced_without_a_gap(start_cluster, index):
    cluster = await start_cluster(1, 2)
    for name in ("d0", "d1"):
        cluster[name].pause(f"token:{index}")
    got = []
    task = asyncio.create_task(collect(cluster, make_request(), got))
    await until(lambda: len(got) == max(1, index))
    first, other = ("d0", "d1") if cluster["d0"].started else ("d1", "d0")
    await cluster[first].reached(f"token:{index}")
    cluster[other].resume(f"token:{index}")
    await cluster[first].kill()
    tokens, last = await task
    assert tokens == expected(make_request())
    last_worker = other if index < 7 else "p0"  # prefill gives a last single token itself
    assert last.trace.decode_worker == last_worker
    assert cluster[last_worker].started[-1].output_tokens == tuple(tokens[: max(1, index)])
    await cluster.idle()


async def test_the_last_decode_worker_lost_mid_stream_leaves_the_rest_to_prefill(start_cluster):
    cluster = await start_cluster(1, 1)
    task = await start_at(cluster, "d0", "token:4", make_request())
    await cluster["d0"].kill()
    tokens, last = await task
    assert tokens == expected(make_request())
    assert (last.trace.kind, last.trace.decode_worker) == ("degraded", "p0")
    await cluster.idle()


async def test_a_worker_lost_behind_its_last_token_ends_the_answer_with_length(start_cluster):
    cluster = await start_cluster(1, 1)
    task = await start_at(cluster, "d0", "finished", make_request())
    await cluster["d0"].kill()
    tokens, last = await task
    assert tokens == expected(make_request())
    assert last.finish_reason is FinishReason.LENGTH
    await cluster.idle()


async def test_a_frozen_decode_worker_is_left_and_its_late_tokens_are_ignored(start_cluster):
    cluster = await start_cluster(1, 1, **QUICK)
    task = await start_at(cluster, "d0", "token:4", make_request())
    cluster["d0"].freeze()
    started_s = time.monotonic()
    tokens, _ = await task
    assert time.monotonic() - started_s < 2.0
    assert tokens == expected(make_request())
    cluster["d0"].resume("token:4")
    cluster["d0"].thaw()
    await cluster.all_live()
    await cluster.idle()


async def test_a_worker_with_work_and_no_step_is_left_until_it_steps_again(start_cluster):
    cluster = await start_cluster(1, 1, **QUICK)
    task = await start_at(cluster, "d0", "token:4", make_request())
    cluster["d0"].stuck = True
    tokens, _ = await task
    assert tokens == expected(make_request())
    cluster["d0"].stuck = False
    cluster["d0"].resume("token:4")
    await cluster.all_live()
    await cluster.idle()


@pytest.mark.parametrize(
    ("worker_id", "stage"),
    [
        ("p0", "accepted"),
        ("p0", "published"),
        ("p0", "prefilled"),
        ("p0", "token:0"),
        ("p0", "finished"),
        ("d0", "accepted"),
        ("d0", "pulled"),
        ("d0", "token:0"),
        ("d0", "token:5"),
        ("d0", "finished"),
    ],
)
async def test_a_cancel_at_any_stage_leaves_nothing_behind(start_cluster, worker_id, stage):
    cluster = await start_cluster()
    task = await start_at(cluster, worker_id, stage, make_request())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await cluster.idle()


async def test_a_cancel_between_the_legs_gives_the_export_back(start_cluster):
    cluster = await start_cluster()
    cluster["d0"].pause("pulled")
    deltas = cluster.router.generate(make_request())
    await anext(deltas)
    await until(lambda: cluster["p0"].num_active == 0)
    assert cluster.fabric.exports
    await deltas.aclose()
    await until(lambda: cluster["p0"].cancelled == [cluster["p0"].last_leg_id()])
    await cluster.idle()


@pytest.mark.parametrize("code", [ErrorCode.OVERLOADED, ErrorCode.INTERNAL, ErrorCode.DRAINING])
@pytest.mark.parametrize("worker_id", ["p0", "d0"])
async def test_a_leg_that_fails_on_one_worker_is_placed_on_another(start_cluster, worker_id, code):
    cluster = await start_cluster(1, 1)
    cluster[worker_id].failures["accepted"] = code
    tokens, last = await collect(cluster, make_request())
    assert tokens == expected(make_request())
    assert last.trace.kind == "degraded"
    assert cluster.metric("baton_retries_total", reason=code.value) == 1
    await cluster.idle()


async def test_attempts_end_with_the_reason_and_a_time_to_come_back(start_cluster):
    cluster = await start_cluster(1, 1, retry_min_s=0.001, max_attempts=3)
    for worker_id in ("p0", "d0"):
        cluster[worker_id].failures["accepted"] = ErrorCode.OVERLOADED
    with pytest.raises(BatonError) as caught:
        await collect(cluster, make_request())
    assert caught.value.code is ErrorCode.OVERLOADED
    assert caught.value.retry_after_s is not None
    assert sum(len(worker.started) for worker in cluster.workers.values()) == 3
    await cluster.idle()


async def test_two_decode_workers_lost_in_a_row_still_give_the_whole_answer(start_cluster):
    cluster = await start_cluster(1, 3)
    for i in range(3):
        cluster[f"d{i}"].pause("token:3")
        cluster[f"d{i}"].pause("token:5")
    task = asyncio.create_task(collect(cluster, make_request()))
    for stage in ("token:3", "token:5"):
        await until(
            lambda: any(w.num_active for w in cluster.workers.values() if w.role == "decode")
        )
        busy = next(w for w in cluster.workers.values() if w.role == "decode" and w.num_active)
        if stage == "token:5":
            busy.resume("token:3")
        await busy.reached(stage)
        await busy.kill()
    rest = next(w for w in cluster.workers.values() if w.role == "decode" and w._server)
    rest.resume("token:3")
    rest.resume("token:5")
    assert (await task)[0] == expected(make_request())
    await cluster.idle()


async def test_with_no_worker_a_request_waits_and_then_names_a_time_to_come_back(start_cluster):
    cluster = await start_cluster(0, 0, worker_wait_s=0.1)
    with pytest.raises(BatonError) as caught:
        await collect(cluster, make_request())
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert caught.value.retry_after_s is not None
    assert not cluster.router.snapshot().is_ready


async def test_all_workers_dead_and_one_back_goes_on_with_the_stream(start_cluster):
    cluster = await start_cluster(1, 1)
    cluster["d0"].pause("token:4")
    got = []
    task = asyncio.create_task(collect(cluster, make_request(), got))
    await until(lambda: len(got) == 4)
    await cluster["p0"].kill()
    await cluster["d0"].kill()
    await until(lambda: not cluster.router.snapshot().is_ready)
    worker = await cluster.add("d0", Role.DECODE, epoch=2)
    tokens, last = await task
    assert tokens == expected(make_request())
    assert worker.started[0].output_tokens == tuple(tokens[:4])
    assert last.trace.attempts == 2
    await cluster.idle()


async def test_stopping_the_router_ends_requests_and_legs(start_cluster):
    cluster = await start_cluster(1, 1)
    task = await start_at(cluster, "d0", "token:4", make_request())
    await cluster.router.stop()
    with pytest.raises(BatonError) as caught:
        await task
    assert caught.value.code is ErrorCode.UNAVAILABLE
    await cluster.idle()


async def test_a_resumed_answer_that_lacks_one_token_takes_it_from_the_prefill_worker(
    start_cluster,
):
    cluster = await start_cluster(1, 1)
    request = with_tokens(make_request(), 5)
    cluster["d0"].pause("token:4")
    got = []
    task = asyncio.create_task(collect(cluster, request, got))
    await until(lambda: len(got) == 4)
    await cluster["d0"].kill()
    tokens, last = await task
    assert tokens == expected(request)
    assert tokens[4] == answer(request.prompt_tokens, 4)
    assert last.trace.decode_worker == "p0"
    await cluster.idle()
