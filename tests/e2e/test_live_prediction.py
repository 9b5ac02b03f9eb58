"""What placement predicts on live clusters, against what the requests then took."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from baton.bench.live import Figures, Workload, measure
from baton.up_config import DEMO_MODEL
from profiles.catalog import dump, load_profile
from router.config import RouterConfig

pytestmark = pytest.mark.slow
# 10 % is the bound; a host shared with other tests is given a multiple of it.
PROMPT = 800  # lengths are up to four times as much, and the cluster's limit is 4096 tokens
STEP_ERROR, FIRST_TOKEN_ERROR, TOKEN_ERROR = 0.2, 0.3, 0.3


@pytest.fixture(scope="module")
def modelled(
    start_cluster: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("profile") / "roomy.toml"
    text = dump(load_profile("llama-3.1-8b@h200"))
    lines = [line for line in text.splitlines() if not line.startswith(("load_s", "kv_tokens"))]
    path.write_text("\n".join([*lines, "load_s = 0.1", "kv_tokens = 400000"]))
    started = start_cluster(DEMO_MODEL, "--profile", str(path), prefill=2, decode=2)
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
    found = await figures(modelled, "predicted", Workload(rate=8.0, prompt_tokens=PROMPT), 4)
    assert found.num_answered > 270, "few are refused at this rate"
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
    assert found.num_answered > 200
    assert found.step_error is not None and found.step_error < 1.0
    assert found.ttft_error is not None and found.tpot_error is not None


async def test_policies_are_compared_live_by_configuration_alone(modelled: Any) -> None:
    workload = Workload(16.0, 280, 140, prompt_tokens=PROMPT, ttft_s=1.0)
    names = ("predicted", "uncached_tokens", "round_robin")
    found = {name: await figures(modelled, name, workload, 4) for name in names}
    assert all(one.num_answered > 200 for one in found.values())
    assert all(one.goodput > 0 for one in found.values())
    assert found["round_robin"].ttft_error is None
