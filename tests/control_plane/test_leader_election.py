"""Two control planes, one leader: also when one stands still past its lease."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kube_server import KubeServer
from redis.asyncio import Redis

from control_plane.actuators.advisory import AdvisoryActuator
from control_plane.actuators.fenced import FencedActuator
from control_plane.leadership import NotLeader
from control_plane.state.redis_lease import RedisLeadership
from runtime.clock import SystemClock, VirtualClock
from runtime.metrics import CONTROL_METRICS, Metrics
from wire.messages import Role

PROGRAM = str(Path(__file__).parent / "election_process.py")
ROOT = str(Path(__file__).parents[2])
LEASE_S = 1.0


@pytest.fixture(params=["redis", pytest.param("kubernetes", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    if request.param == "redis":
        yield "redis", request.getfixturevalue("redis_server").url
        return
    kube = KubeServer()
    kube.start()
    yield "kubernetes", kube.url
    kube.stop()


def until(wanted: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not wanted():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


class Candidates:
    """Processes that run for leader, and what they did in order."""

    def __init__(self, backend: tuple[str, str], directory: Path) -> None:
        self._backend = backend
        self._file = directory / "acts"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        words = [sys.executable, PROGRAM, *self._backend, name, str(self._file), str(LEASE_S)]
        environ = {**os.environ, "PYTHONPATH": ROOT}
        self.processes[name] = subprocess.Popen(words, env=environ)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def acts(self) -> list[list[str]]:
        if not self._file.exists():
            return []
        return [line.split() for line in self._file.read_text().splitlines()]

    def last_by(self, name: str) -> bool:
        acts = self.acts()
        return bool(acts) and acts[-1][0] == name and acts[-1][1] != "refused"

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def candidates(backend: tuple[str, str], tmp_path: Path) -> Iterator[Candidates]:
    found = Candidates(backend, tmp_path)
    yield found
    found.stop()


def test_a_leader_that_stands_still_past_its_lease_acts_no_more(candidates: Candidates):
    candidates.start("a")
    until(lambda: candidates.last_by("a"))
    candidates.start("b")
    candidates.signal("a", signal.SIGSTOP)
    until(lambda: candidates.last_by("b"))
    before = len(candidates.acts())
    candidates.signal("a", signal.SIGCONT)
    until(lambda: len(candidates.acts()) > before + 15)
    acts = [act for act in candidates.acts() if act[1] != "refused"]
    tokens = [int(token) for _, token in acts]
    first_of_b = min(int(token) for name, token in acts if name == "b")
    since = tokens[tokens.index(first_of_b) :]
    # Confirmed before the standstill and done after it: what workers refuse by its number.
    assert sum(token < first_of_b for token in since) <= 1, "an older term acted after a newer one"
    assert len({(name, token) for name, token in acts}) == len(set(tokens)), "two in one term"


@pytest.mark.slow
def test_a_dead_leader_is_followed_with_a_higher_number(candidates: Candidates):
    candidates.start("a")
    until(lambda: candidates.last_by("a"))
    candidates.start("b")
    candidates.signal("a", signal.SIGKILL)
    until(lambda: candidates.last_by("b"))
    tokens = [int(token) for _, token in candidates.acts()]
    assert tokens[-1] > tokens[0]


async def test_while_redis_is_gone_nobody_acts_and_its_loss_takes_no_number_back(redis_server):
    clock = SystemClock()
    async with Redis.from_url(redis_server.url) as redis:
        leadership = RedisLeadership(redis, "test", "a", clock, lease_s=30.0)
        await leadership.start()
        first = await leadership.confirm()
        redis_server.stop()
        with pytest.raises(NotLeader, match="Redis does not answer"):
            await leadership.confirm()
        redis_server.start()  # empty
        with pytest.raises(NotLeader):
            await leadership.confirm()
        await leadership.step()
        assert await leadership.confirm() > first
        await leadership.stop()


async def test_a_leader_stops_before_its_lease_ends_and_gives_it_back_when_it_stops(redis_server):
    clock = VirtualClock()
    async with Redis.from_url(redis_server.url) as one, Redis.from_url(redis_server.url) as other:
        first = RedisLeadership(one, "test", "a", clock, lease_s=30.0)
        second = RedisLeadership(other, "test", "b", clock, lease_s=30.0)
        await first.start()
        await second.start()
        assert first.term().is_me and second.term().holder == "a"
        clock.advance(21.0)
        assert not first.term().is_me
        await first.step()
        await first.stop()
        await second.step()
        assert second.term().is_me and second.term().token > first.term().token
        await second.stop()


async def test_an_actuator_behind_the_fence_hears_from_the_leader_only(redis_server):
    async with Redis.from_url(redis_server.url) as redis:
        leader = RedisLeadership(redis, "test", "a", SystemClock(), lease_s=30.0)
        follower = RedisLeadership(redis, "test", "b", SystemClock(), lease_s=30.0)
        await asyncio.gather(leader.start())
        await follower.start()
        fenced = FencedActuator(AdvisoryActuator(Metrics(CONTROL_METRICS)), follower)
        with pytest.raises(NotLeader, match="may not act, a does"):
            await fenced.add(Role.DECODE, 1, "")
        await fenced.recommend(1, 1)
        await leader.stop()
        await follower.stop()
