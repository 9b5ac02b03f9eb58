"""A control plane with its operator API, and workers that beat and obey orders, in one process."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable

import httpx

from control_plane.actuators.actuator import ActuatorRefused, PoolStatus
from control_plane.config import ControlConfig
from control_plane.leadership import Leadership
from control_plane.planner.config import PlannerConfig
from control_plane.planner.types import Decision, Flip, PoolSizes
from control_plane.planning import RecordedDecision, Stance, SupposedLoad
from control_plane.server import ControlServer
from control_plane.state.store import StateStore
from runtime.clock import SystemClock
from wire import rpc
from wire.cluster import Mode, OrderKind, WorkerBeat
from wire.messages import Role

TOKEN = "operator-secret"
BeatOf = Callable[..., WorkerBeat]


class Roster:
    """An actuator in memory with a quota; remembers what it was asked for."""

    def __init__(self, quota: int = 4) -> None:
        self.quota = quota
        self.added: list[tuple[Role, int, str]] = []
        self.removed: list[str] = []
        self.recommended: tuple[int, int] | None = None

    async def add(self, role: Role, count: int, hardware: str) -> None:
        if sum(n for _, n, _ in self.added) + count > self.quota:
            raise ActuatorRefused(f"the quota is {self.quota} workers")
        self.added.append((role, count, hardware))

    async def remove(self, worker_id: str) -> None:
        self.removed.append(worker_id)

    async def recommend(self, prefill: int, decode: int) -> None:
        self.recommended = (prefill, decode)

    async def status(self) -> tuple[PoolStatus, ...]:
        failed = PoolStatus(Role.PREFILL, 2, 1, 0, 1, "prefill-7: no memory for the weights")
        return (failed, PoolStatus(Role.DECODE, 2, 2))

    async def close(self) -> None:
        """There is nothing to end."""


class Plans:
    """An autopilot that always decided the same."""

    def __init__(self) -> None:
        self.current = PlannerConfig(max_prefill=3, max_decode=8)
        self.asked: list[SupposedLoad] = []
        self.recorded = [RecordedDecision(1, 1000.0, decision(), ("done",))]

    def stance(self) -> Stance:
        return Stance.ACT

    def decisions(self) -> tuple[RecordedDecision, ...]:
        return tuple(self.recorded)

    def config(self) -> PlannerConfig:
        return self.current

    def configure(self, config: PlannerConfig) -> None:
        self.current = config

    def what_if(self, load: SupposedLoad) -> Decision:
        self.asked.append(load)
        return decision()


def decision() -> Decision:
    return Decision(
        at_s=5.0,
        mode=Mode.HYBRID,
        actual=PoolSizes(2, 1),
        desired=PoolSizes(1, 2),
        actions=(Flip("prefill-0", Role.DECODE, "decode lacks 0.8 workers"),),
        inputs=(("requests_per_s", 4.0), ("nothing", float("nan"))),
        alarms=("one worker lies about its load",),
        summary="1P2D carries 4 requests a second",
    )


class LiveWorker:
    """Beats over gRPC; a flip changes the role that it beats with, a drain ends it."""

    def __init__(self, channel: rpc.Channel, beat: WorkerBeat) -> None:
        self.info = beat.info
        self._report = beat.report
        self._nudge = asyncio.Event()
        self._ends = False
        self._orders = rpc.register(channel, self._beats())

    async def run(self) -> None:
        async for order in self._orders:
            if order.kind is OrderKind.FLIP:
                self.info = dataclasses.replace(
                    self.info, role=order.role, role_epoch=self.info.role_epoch + 1
                )
            self._ends = self._ends or order.kind is OrderKind.DRAIN
            if order.kind is not OrderKind.ACK:
                self._nudge.set()

    async def _beats(self) -> AsyncIterator[WorkerBeat]:
        while not self._ends:
            yield WorkerBeat(self.info, dataclasses.replace(self._report, role=self.info.role))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudge.wait(), 0.5)
            self._nudge.clear()


class OperatedCluster:
    """A control plane, its workers, and a client of its API."""

    def __init__(
        self,
        leadership: Leadership | None = None,
        store: StateStore | None = None,
        **settings: object,
    ) -> None:
        given = {"port": 0, "settle_s": 0.0, "operator_token": TOKEN, **settings}
        self.roster = Roster()
        self.plans = Plans()
        self.server = ControlServer(
            ControlConfig(**given),  # type: ignore[arg-type]
            SystemClock(),
            actuator=self.roster,
            actuator_name="roster",
            planning=self.plans,
            leadership=leadership,
            store=store,
        )
        self._workers: list[asyncio.Task[None]] = []

    async def start(self, beats: list[WorkerBeat]) -> None:
        await self.server.start()
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.server.http_port}", trust_env=False, timeout=20
        )
        self._channel = rpc.open_channel(f"127.0.0.1:{self.server.port}")
        for beat in beats:
            self._workers.append(asyncio.create_task(LiveWorker(self._channel, beat).run()))
        await self.until(lambda: len(self.server.serving()) >= len(beats))

    async def stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self.http.aclose()
        await self._channel.close()
        await self.server.stop()

    async def act(self, action: str, body: object = None, **headers: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}", **headers}
        return await self.http.post(f"/api/v1/actions/{action}", json=body or {}, headers=headers)

    async def get(self, path: str, **headers: str) -> dict[str, object]:
        answer = await self.http.get(f"/api/v1/{path}", headers=headers)
        assert answer.status_code == 200, answer.text
        content: dict[str, object] = answer.json()
        return content

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not wanted():
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def operated(beats: list[WorkerBeat], **settings: object) -> AsyncIterator[OperatedCluster]:
    cluster = OperatedCluster(**settings)
    await cluster.start(beats)
    try:
        yield cluster
    finally:
        await cluster.stop()
