"""Workers that join, drain, restart and vanish; block events with gaps; no control plane."""

import asyncio
from dataclasses import replace

import pytest
from scripted_cluster import Cluster, collect, expected, make_request, until

from wire.messages import BlockEvent, Role

HASHES = make_request().block_hashes


def num_prefix_blocks(cluster, worker_id):
    views = {view.worker_id: view for view in cluster.router.snapshot().workers}
    return views[worker_id].num_prefix_blocks


async def test_a_gap_in_the_block_events_asks_for_a_snapshot(start_cluster):
    cluster = await start_cluster()
    worker = cluster["d0"]
    worker.store(HASHES[:4])
    await until(lambda: num_prefix_blocks(cluster, "d0") == 4)
    worker.blocks.update(dict.fromkeys(HASHES[4:8]))
    worker.sequence_number += 2
    worker.send_blocks(BlockEvent(worker.sequence_number, stored=HASHES[7:8]))
    await until(lambda: num_prefix_blocks(cluster, "d0") == 8)
    assert worker.num_snapshot_requests == 1
    worker.store(HASHES[8:9])
    await until(lambda: num_prefix_blocks(cluster, "d0") == 9)
    cluster.router.check_integrity()


async def test_a_session_begins_with_the_workers_snapshot(start_cluster):
    cluster = await start_cluster(1, 0)
    cluster["p0"].store(HASHES[:3])
    worker = await cluster.add("d0", Role.DECODE)
    worker.store(HASHES[:5])
    await cluster.all_live()
    await until(lambda: num_prefix_blocks(cluster, "d0") == 5)


async def test_routing_goes_on_without_the_control_plane(start_cluster):
    cluster = await start_cluster()
    await cluster.control.kill()
    await until(lambda: not cluster.router.snapshot().has_control_plane)
    assert cluster.router.snapshot().is_ready
    assert (await collect(cluster, make_request()))[0] == expected(make_request())
    await cluster.control.start()
    await until(lambda: cluster.router.snapshot().has_control_plane)


async def test_a_control_plane_that_forgot_its_workers_does_not_lose_them(start_cluster):
    cluster = await start_cluster(1, 1, relist_grace_s=0.3)
    await cluster.control.kill()
    cluster.control.forget_all()
    await until(lambda: not cluster.router.snapshot().has_control_plane)
    await cluster.control.start()
    await until(lambda: cluster.router.snapshot().has_control_plane)
    assert set(cluster.states()) == {"p0", "d0"}
    assert (await collect(cluster, make_request()))[0] == expected(make_request())
    cluster.control.list_worker(cluster["d0"].info)
    await until(lambda: set(cluster.states()) == {"d0"})


async def test_a_draining_worker_gets_no_new_legs_and_ends_its_own(start_cluster):
    cluster = await start_cluster(1, 2)
    for name in ("d0", "d1"):
        cluster[name].pause("token:3")
    task = asyncio.create_task(collect(cluster, make_request()))
    await until(lambda: bool(cluster["d0"].started or cluster["d1"].started))
    busy, other = ("d0", "d1") if cluster["d0"].started else ("d1", "d0")
    cluster[busy].draining = True
    await until(lambda: cluster.states()[busy] == "draining")
    cluster[other].resume("token:3")
    for start in range(3):
        _, last = await collect(cluster, make_request(start=start * 500))
        assert last.trace.decode_worker == other
    cluster[busy].resume("token:3")
    tokens, last = await task
    assert tokens == expected(make_request())
    assert last.trace.attempts == 1
    await cluster.idle()


async def test_a_worker_that_the_registry_calls_draining_gets_no_new_legs(start_cluster):
    cluster = await start_cluster(1, 2)
    cluster.control.list_worker(replace(cluster["d0"].info, draining=True))
    await until(lambda: cluster.states()["d0"] == "draining")
    for start in range(3):
        _, last = await collect(cluster, make_request(start=start * 500))
        assert last.trace.decode_worker == "d1"


async def test_a_worker_off_the_registry_ends_its_legs_before_it_is_left(start_cluster):
    cluster = await start_cluster(1, 1)
    cluster["d0"].pause("token:3")
    task = asyncio.create_task(collect(cluster, make_request()))
    await cluster["d0"].reached("token:3")
    cluster.control.drop_worker("d0")
    await until(lambda: cluster.states()["d0"] == "draining")
    _, last = await collect(cluster, make_request(start=900))
    assert last.trace.decode_worker == "p0"
    cluster["d0"].resume("token:3")
    tokens, last = await task
    assert (tokens, last.trace.decode_worker) == (expected(make_request()), "d0")
    await until(lambda: "d0" not in cluster.states())
    await until(lambda: cluster["d0"].num_sessions == 0)


async def test_a_new_epoch_replaces_the_old_process_at_once(start_cluster):
    cluster = await start_cluster(1, 1)
    old = cluster["d0"]
    old.store(HASHES)
    await until(lambda: num_prefix_blocks(cluster, "d0") == len(HASHES))
    old.pause("token:3")
    task = asyncio.create_task(collect(cluster, make_request()))
    await old.reached("token:3")
    worker = await cluster.add("d0", Role.DECODE, epoch=2)
    tokens, last = await task
    assert tokens == expected(make_request())
    await cluster.all_live()
    assert num_prefix_blocks(cluster, "d0") in (0, len(HASHES))  # only guesses are left
    await until(lambda: old.num_sessions == 0 and old.num_active == 0)
    _, last = await collect(cluster, make_request(start=900))
    assert (last.trace.decode_worker, len(worker.started) >= 1) == ("d0", True)


async def test_a_worker_that_restarts_on_its_address_is_found_again(start_cluster):
    cluster = await start_cluster(1, 1)
    await cluster["d0"].kill()
    await until(lambda: cluster.states()["d0"] != "live")
    await cluster["d0"].start()
    await cluster.all_live()
    assert (await collect(cluster, make_request()))[0] == expected(make_request())


async def test_a_role_that_flips_moves_the_worker_to_the_other_pool(start_cluster):
    cluster = await start_cluster(1, 2)
    cluster["d1"].role = Role.PREFILL
    views = cluster.router.snapshot
    await until(lambda: [view.role for view in views().workers].count(Role.PREFILL) == 2)
    for start in range(4):
        _, last = await collect(cluster, make_request(start=start * 500))
        assert last.trace.decode_worker == "d0"


async def test_the_snapshot_tells_the_least_context_and_readiness(start_cluster):
    cluster = await start_cluster(1, 0)
    worker = await cluster.add("d0", Role.DECODE)
    cluster.control.list_worker(replace(worker.info, max_model_len=2048))
    await until(lambda: cluster.router.snapshot().max_model_len == 2048)
    assert cluster.router.snapshot().is_ready
    await until(lambda: cluster.metric("baton_router_workers", role="decode") == 1)


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_router_without_the_cluster_token_finds_no_worker(token):
    cluster = Cluster(cluster_token=token, worker_wait_s=0.1)
    await cluster.start(0, 0)
    worker = await cluster.add("d0", Role.DECODE)
    await worker.kill()
    await worker.start("secret")
    await until(lambda: cluster.states().get("d0") == "lost")
    assert not cluster.router.snapshot().is_ready
    await cluster.stop()
