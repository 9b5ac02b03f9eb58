"""Retries: how many, where, and after how long."""

from random import Random

import pytest
from scripted_cluster import make_request

from router.config import RouterConfig
from router.relay import retry_pause_s
from wire.errors import BatonError, ErrorCode


@pytest.mark.parametrize(
    ("num_attempts", "middle_s"), [(1, 0.05), (2, 0.1), (3, 0.2), (4, 0.4), (5, 0.5), (9, 0.5)]
)
def test_the_pause_doubles_from_50_to_500_ms_and_strays_by_a_fifth(num_attempts, middle_s):
    rng, config = Random(num_attempts), RouterConfig("", "test")
    pauses = [retry_pause_s(config, num_attempts, rng) for _ in range(500)]
    assert 0.8 * middle_s <= min(pauses) < 0.83 * middle_s
    assert 1.17 * middle_s < max(pauses) <= 1.2 * middle_s


async def test_three_retries_each_go_to_a_worker_that_has_not_failed(start_cluster):
    cluster = await start_cluster(0, 5, retry_min_s=0.001)
    for worker in cluster.workers.values():
        worker.failures["accepted"] = ErrorCode.OVERLOADED
    with pytest.raises(BatonError, match="gave up after 4 attempts") as caught:
        async for _ in cluster.router.generate(make_request()):
            pass
    assert caught.value.code is ErrorCode.OVERLOADED
    counts = [len(worker.started) for worker in cluster.workers.values()]
    assert sorted(counts) == [0, 1, 1, 1, 1]
    await cluster.idle()
