"""Several gateways on one port: one view of their metrics, and one limit for their tenants."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.gate import Gate
from gateway.group import MetricsGroup, joined
from gateway.rate_limit import Account, Spent
from gateway.shared_spending import SharedSpending
from gateway.tenants import Tenant
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics


def test_each_process_has_series_of_its_own_under_one_head() -> None:
    one = b'# HELP a_total A.\n# TYPE a_total counter\na_total{x="1"} 2.0\na_created 5.0\n'
    two = b"# HELP a_total A.\n# TYPE a_total counter\na_total 3.0\n"
    two += b"# HELP b B.\n# TYPE b gauge\nb 1\n"
    assert joined({"1": two, "0": one}).decode().splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{process="0",x="1"} 2.0',
        'a_created{process="0"} 5.0',
        'a_total{process="1"} 3.0',
        "# HELP b B.",
        "# TYPE b gauge",
        'b{process="1"} 1',
    ]


async def test_any_process_tells_the_metrics_of_all_and_goes_without_those_that_died(
    tmp_path: Path,
) -> None:
    metrics = [Metrics(GATEWAY_METRICS) for _ in range(2)]
    groups = [MetricsGroup(tmp_path, n, one.exposition) for n, one in enumerate(metrics)]
    for number, one in enumerate(metrics):
        one.counter("baton_requests_accepted_total").inc(number + 1)
    (tmp_path / "7.sock").touch()  # of a process that was killed
    for group in groups:
        await group.start()
    try:
        for group in groups:
            text = (await group.exposition()).decode()
            assert 'baton_requests_accepted_total{process="0"} 1.0' in text
            assert 'baton_requests_accepted_total{process="1"} 2.0' in text
            assert 'process="7"' not in text
            assert text.count("# TYPE baton_ttft_seconds histogram") == 1
    finally:
        for group in groups:
            await group.stop()
    assert not list(tmp_path.glob("[01].sock"))


def test_without_redis_each_process_grants_its_share() -> None:
    account = Account(Tenant("acme", requests_per_minute=4), SystemClock(), num_processes=2)
    account.take_request()
    account.take_request()
    with pytest.raises(ApiError, match="2 requests per minute"):
        account.take_request()


async def test_gateways_of_one_redis_grant_one_limit_together(redis_server: Any) -> None:
    tenants = {"digest": Tenant("acme", requests_per_minute=10, tokens_per_minute=1000)}
    gates = [Gate(None, SystemClock(), tenants) for _ in range(2)]
    shared = [SharedSpending(redis_server.url, gate) for gate in gates]
    accounts = [gate.limited_accounts()[0] for gate in gates]
    try:
        for one in shared:
            await one.exchange()
        for _ in range(6):
            accounts[0].take_request()
        accounts[0].spend_tokens(900)
        for one in (*shared, *shared):
            await one.exchange()
        for _ in range(4):
            accounts[1].take_request()
        with pytest.raises(ApiError, match="requests per minute"):
            accounts[1].take_request()
        with pytest.raises(ApiError, match="tokens per minute"):
            accounts[1].take_prompt(200)
        assert accounts[1].spent == Spent(4, 0)
    finally:
        for one in shared:
            await one.close()


async def test_limits_go_on_for_each_gateway_alone_while_redis_is_away(
    redis_server: Any,
) -> None:
    gate = Gate(None, SystemClock(), {"digest": Tenant("acme", requests_per_minute=10)})
    account = gate.limited_accounts()[0]
    shared = SharedSpending(redis_server.url, gate, every_s=0.01)
    following = asyncio.create_task(shared.follow())
    try:
        account.take_request()
        await until(lambda: shared._told.get("acme") == Spent(1, 0))
        redis_server.stop()
        account.take_request()
        redis_server.start()
        await until(lambda: shared._told.get("acme") == Spent(2, 0))
        assert 7 < account._requests.level < 9
    finally:
        following.cancel()
        await asyncio.wait((following,))
        await shared.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
