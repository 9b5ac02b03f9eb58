"""Workers that die, freeze, drain and come back at random under load: every answer is whole."""

import asyncio
from random import Random

import pytest
from scripted_cluster import collect, expected, make_request, until

SETTINGS = {
    "heartbeat_timeout_s": 0.3,
    "step_timeout_s": 0.5,
    "rescue_s": 0.1,
    "retry_min_s": 0.005,
    "retry_max_s": 0.05,
    "reconnect_max_s": 0.1,
    "max_attempts": 100,
    "local_prefill_max_tokens": 64,
}
HEDGED = {
    "policy": "predicted",
    "profile": "llama-3.1-8b@h200",
    "hedge": 0.1,
    "hedge_min_ms": 2.0,
    "hedge_share": 1.0,
}


async def disturb(cluster, rng):
    """One fault on a random worker, ended again after a while."""
    name = rng.choice(sorted(cluster.workers))
    worker = cluster[name]
    fault = rng.choice(["kill", "kill", "freeze", "drain"])
    pause_s = rng.uniform(0.0, 0.5)
    if fault == "kill":
        await worker.kill()
        await asyncio.sleep(pause_s / 4)
        await cluster.add(name, worker.role, epoch=worker.epoch + 1)
        cluster[name].token_delay_s = worker.token_delay_s
    elif fault == "freeze":
        worker.freeze()
        await asyncio.sleep(pause_s)
        worker.thaw()
    else:
        worker.draining = True
        await asyncio.sleep(pause_s / 4)
        worker.draining = False


@pytest.mark.parametrize(("seed", "more"), [(0, {}), (1, {}), (0, HEDGED), (2, HEDGED)])
async def test_every_answer_is_whole_whatever_happens_to_the_workers(start_cluster, seed, more):
    rng = Random(seed)
    cluster = await start_cluster(2, 2, **SETTINGS | more)
    for worker in cluster.workers.values():
        worker.token_delay_s = 0.005
    requests = [
        make_request(
            num_tokens=rng.choice([20, 100, 300]), max_tokens=rng.randrange(1, 40), start=i
        )
        for i in range(60)
    ]
    todo = list(requests)

    async def client():
        while todo:
            request = todo.pop()
            tokens, last = await collect(cluster, request)
            assert tokens == expected(request)
            assert last.finish_reason == "length"

    clients = asyncio.gather(*(client() for _ in range(8)))
    while not clients.done():
        await disturb(cluster, rng)
        await asyncio.sleep(rng.uniform(0.0, 0.05))
    await clients
    await cluster.all_live()
    await cluster.idle()
    assert cluster.router._hedges.num_running == 0
    assert bool(num_hedges(cluster)) == bool(more)


def num_hedges(cluster):
    outcomes = ("won", "lost", "failed", "cancelled")
    return sum(cluster.metric("baton_hedges_total", outcome=outcome) for outcome in outcomes)


@pytest.mark.parametrize(("seed", "more"), [(0, {}), (1, {}), (1, HEDGED)])
async def test_cancels_at_random_leave_nothing_behind(start_cluster, seed, more):
    rng = Random(seed)
    cluster = await start_cluster(2, 2, **SETTINGS | more)
    for worker in cluster.workers.values():
        worker.token_delay_s = 0.002
    tasks = []
    for i in range(60):
        request = make_request(num_tokens=rng.choice([20, 200]), max_tokens=20, start=i)
        tasks.append(asyncio.create_task(collect(cluster, request)))
        await asyncio.sleep(rng.uniform(0.0, 0.004))
        rng.choice(tasks).cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(
        isinstance(result, asyncio.CancelledError) or len(result[0]) == 20 for result in results
    )
    await until(lambda: not cluster.fabric.exports)
    await cluster.idle()
