"""A request that no worker is live for is told what it waits for."""

import asyncio

import pytest
from scripted_cluster import Cluster, expected, make_request, until

from router.no_worker import NoWorker, awaited_text
from router.output import OutputDelta
from wire.cluster import PoolProgress
from wire.messages import Role

ONE_STARTS = PoolProgress(Role.DECODE, wanted=2, running=0, starting=1)


@pytest.mark.parametrize(
    ("pools", "text"),
    [
        ((), "12.0 s"),
        ((PoolProgress(Role.PREFILL, 0, 0), ONE_STARTS), "12.0 s; decode 0/2, 1 starting"),
        (
            (PoolProgress(Role.PREFILL, 1, 0, 1), ONE_STARTS),
            "12.0 s; prefill 0/1, 1 starting; decode 0/2, 1 starting",
        ),
    ],
)
def test_the_words_name_the_time_and_each_pool_that_lacks_workers(
    pools: tuple[PoolProgress, ...], text: str
) -> None:
    assert awaited_text(12.0, pools) == text


async def deltas_of(cluster: Cluster) -> list[OutputDelta]:
    return [delta async for delta in cluster.router.generate(make_request())]


async def test_a_request_that_waits_in_vain_tells_how_far_the_pools_are(start_cluster):
    cluster = await start_cluster(0, 0, worker_wait_s=0.5)
    cluster.control.tell_pools(ONE_STARTS)
    with pytest.raises(NoWorker, match=r"waited \d+\.\d s; decode 0/2, 1 starting") as caught:
        await deltas_of(cluster)
    assert caught.value.waiting == "0.5 s; decode 0/2, 1 starting"


async def test_the_first_tokens_alone_of_a_request_that_waited_say_so(start_cluster):
    cluster = await start_cluster(0, 0, worker_wait_s=60.0)
    cluster.control.tell_pools(ONE_STARTS)
    answering = asyncio.create_task(deltas_of(cluster))
    await until(lambda: cluster.metric("baton_requests_without_worker") == 1)
    await cluster.add("d0", Role.DECODE)
    deltas = await answering
    assert deltas[0].waiting.endswith(" s; decode 0/2, 1 starting")
    assert not any(delta.waiting for delta in deltas[1:])
    assert [token for delta in deltas for token in delta.tokens] == list(expected(make_request()))
    assert not any(delta.waiting for delta in await deltas_of(cluster))
