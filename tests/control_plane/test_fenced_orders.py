"""A worker does not do what a leader of an older term says."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from kube_server import KubeServer
from kubernetes import client
from redis.asyncio import Redis

from control_plane.kube_lease import KubeLeadership
from control_plane.state.redis_lease import RedisLeadership
from runtime.clock import SystemClock
from runtime.lifecycle import free_port
from wire import rpc
from wire.cluster import ControlOrder, OrderKind, WorkerBeat
from wire.messages import Role
from worker.registration import Registration

PROGRAM = str(Path(__file__).parent / "fenced_plane.py")
ROOT = str(Path(__file__).parents[2])
FLIP = OrderKind.FLIP


async def until(wanted: Callable[[], object], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not wanted():
            await asyncio.sleep(0.01)


class Leaders:
    """A control service whose orders carry the terms that a test gives."""

    def __init__(self, orders: list[ControlOrder]) -> None:
        self.orders = orders
        self.terms: list[int] = []

    async def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[ControlOrder]:
        async for beat in beats:
            self.terms.append(beat.term)
            while self.orders:
                yield self.orders.pop(0)


async def test_a_worker_refuses_an_older_term_and_tells_the_highest_that_it_heard(beat_of):
    orders = [
        ControlOrder(OrderKind.ACK, term=2),
        ControlOrder(FLIP, Role.PREFILL, term=2),
        ControlOrder(FLIP, Role.DECODE, term=1),
        ControlOrder(OrderKind.DRAIN),  # of a cluster without an election
    ]
    leaders, heard = Leaders(orders), []
    server = rpc.build_server()
    rpc.add_control_service(server, leaders)  # type: ignore[arg-type]
    port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    registration = Registration(f"127.0.0.1:{port}", "", beat_of, heard.append)
    beating = asyncio.create_task(registration.run())
    await until(lambda: len(heard) == 3)
    registration.beat_now()
    await until(lambda: 2 in leaders.terms)
    await registration.leave(beating)
    await server.stop(None)
    assert [(order.kind, order.role) for order in heard] == [
        (OrderKind.ACK, None),
        (FLIP, Role.PREFILL),
        (OrderKind.DRAIN, None),
    ]


async def test_a_redis_that_lost_its_number_goes_on_above_what_workers_have_heard(redis_server):
    async with Redis.from_url(redis_server.url) as redis:
        leadership = RedisLeadership(redis, "test", "a", SystemClock(), lease_s=30.0)
        await leadership.start()
        assert await leadership.confirm() == 1
        leadership.heard(7)
        await leadership.step()
        assert await leadership.confirm() == 8
        leadership.heard(1 << 60)  # a worker that lies does not use the numbers up
        await leadership.step()
        assert await leadership.confirm() == 8
        await leadership.stop()


async def test_a_new_lease_object_goes_on_above_what_workers_have_heard():
    kube = KubeServer()
    kube.start()
    api = client.ApiClient(client.Configuration(host=kube.url))
    lease = KubeLeadership(api, "serving", "baton", "a", SystemClock(), lambda: 1e9, 30.0)
    await lease.step()
    lease.heard(7)
    assert await lease.confirm() == 8
    await lease.stop()
    kube.stop()


class Planes:
    """Control planes as processes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.ports = {name: free_port() for name in "ab"}
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str, what: str) -> None:
        words = [sys.executable, PROGRAM, self._url, name, "1.0", str(self.ports[name]), what]
        environ = {**os.environ, "PYTHONPATH": ROOT}
        self.processes[name] = subprocess.Popen(
            words, env=environ, stdout=subprocess.PIPE, text=True
        )

    def stands_still(self, name: str) -> bool:
        stat = Path(f"/proc/{self.processes[name].pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()


@pytest.mark.slow  # a process that stands still is given up after 8 s
async def test_an_order_confirmed_before_a_standstill_is_refused_after_the_next_term(
    redis_server, beat_of
):
    planes = Planes(redis_server.url)
    heard: list[ControlOrder] = []
    addresses = ",".join(f"127.0.0.1:{port}" for port in planes.ports.values())
    registration = Registration(addresses, "", beat_of, heard.append)
    planes.start("a", "flip")
    beating = asyncio.create_task(registration.run())
    try:
        await until(lambda: planes.stands_still("a"))
        planes.start("b", "wait")
        await until(lambda: heard and heard[-1].term == 2, 60)  # the worker is with b
        planes.processes["a"].send_signal(signal.SIGCONT)
        assert planes.processes["a"].stdout
        told = await asyncio.to_thread(planes.processes["a"].stdout.readline)
        while told != "ordered\n":
            told = await asyncio.to_thread(planes.processes["a"].stdout.readline)
        planes.processes["b"].kill()  # and a leads again, with the old order still in its hands
        await until(lambda: heard[-1].term == 3, 60)
        await asyncio.sleep(0.5)
        assert all(order.kind is OrderKind.ACK for order in heard)
        terms = [order.term for order in heard]
        assert terms == sorted(terms)
    finally:
        planes.stop()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
