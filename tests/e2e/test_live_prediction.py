"""What placement predicts on live clusters, against what the requests then took."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from baton.bench.live import Figures, Workload, measure
from baton.up_config import DEMO_MODEL
from router.config import RouterConfig

pytestmark = pytest.mark.slow
# 10 % is the bound; a host shared with other tests is given a multiple of it.
STEP_ERROR, FIRST_TOKEN_ERROR, TOKEN_ERROR = 0.2, 0.3, 0.3


@pytest.fixture(scope="module")
def modelled(start_cluster: Callable[..., Any]) -> Iterator[Any]:
    started = start_cluster(DEMO_MODEL, "--profile", "llama-3.1-8b@h200", prefill=2, decode=2)
    yield started
    started.stop()


async def figures(cluster: Any, policy: str, workload: Workload, num_workers: int) -> Figures:
    address = f"127.0.0.1:{cluster.control_port}"
    config = RouterConfig(address, f"live-{policy}", cluster_token=cluster.token, policy=policy)
    found = await measure(config, workload, num_workers)
    print(found)
    await cluster.wait_idle()
    return found


async def test_modelled_workers_take_what_was_predicted_after_200_requests(modelled: Any) -> None:
    found = await figures(modelled, "predicted", Workload(rate=5.0), 4)
    assert found.num_answered == 300 and found.num_judged == 100
    assert found.step_error is not None and found.step_error < STEP_ERROR
    assert found.ttft_error is not None and found.ttft_error < FIRST_TOKEN_ERROR
    assert found.tpot_error is not None and found.tpot_error < TOKEN_ERROR


async def test_the_bundled_model_takes_what_was_predicted_after_200_requests(
    start_cluster: Callable[..., Any],
) -> None:
    cluster = start_cluster(DEMO_MODEL)
    workload = Workload(2.0, prompt_tokens=300, answer_tokens=60, ttft_s=0.5, tpot_s=0.05)
    found = await figures(cluster, "predicted", workload, 2)
    await asyncio.to_thread(cluster.stop)
    assert found.num_answered == 300
    assert found.step_error is not None and found.step_error < 1.0
    assert found.ttft_error is not None and found.tpot_error is not None


async def test_policies_are_compared_live_by_configuration_alone(modelled: Any) -> None:
    workload = Workload(14.0, 280, 140, prompt_tokens=4000, ttft_s=1.0)
    names = ("predicted", "uncached_tokens", "round_robin")
    found = {name: await figures(modelled, name, workload, 4) for name in names}
    assert all(one.num_answered == 280 for one in found.values())
    assert found["predicted"].goodput > found["round_robin"].goodput
    assert found["round_robin"].ttft_error is None
