"""Probes over HTTP: liveness is the event loop, readiness what the process says of itself."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from runtime.health import Health
from runtime.metrics import WORKER_METRICS, Metrics
from runtime.metrics_server import MetricsServer


class HandClock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def now(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def health(clock: HandClock) -> Health:
    return Health(clock, stall_s=10.0)


@pytest.fixture
def server(health: Health) -> Iterator[MetricsServer]:
    server = MetricsServer("127.0.0.1", 0, Metrics(WORKER_METRICS).exposition, health)
    server.start()
    yield server
    server.stop()


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_process_is_alive_and_not_ready_while_it_starts(server: MetricsServer):
    assert get(server, "/livez") == (200, "ok\n")
    assert get(server, "/readyz") == (503, "starting\n")


def test_a_process_that_drains_is_alive_and_not_ready(server: MetricsServer, health: Health):
    health.ready()
    assert get(server, "/readyz") == (200, "ok\n")
    health.ready("draining")
    assert get(server, "/readyz") == (503, "draining\n")
    assert get(server, "/livez")[0] == 200


def test_a_loop_that_does_not_turn_is_neither_alive_nor_ready(
    server: MetricsServer, health: Health, clock: HandClock
):
    health.ready()
    clock.at_s += 11
    assert get(server, "/livez") == (503, "the event loop has not turned for 11 s\n")
    assert get(server, "/readyz")[0] == 503


async def test_a_loop_that_turns_again_is_alive_again(health: Health, clock: HandClock):
    clock.at_s += 11
    assert health.liveness()
    turning = asyncio.create_task(health.turn())
    await asyncio.sleep(0)
    assert not health.liveness()
    turning.cancel()


def test_metrics_stand_beside_the_probes_and_nothing_else_does(server: MetricsServer):
    assert "baton_worker_steps_total" in get(server, "/metrics")[1]
    assert get(server, "/healthz")[0] == 404
