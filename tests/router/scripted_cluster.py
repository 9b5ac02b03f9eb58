"""Workers and a control plane that play their parts over real gRPC, stage by stage, for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from router.config import RouterConfig
from router.router import Router
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire import rpc
from wire.block_hash import block_hashes
from wire.cluster import (
    ClusterSnapshot,
    ClusterStatus,
    ControlOrder,
    Fingerprint,
    OrderKind,
    PoolProgress,
    ServingMode,
    WorkerBeat,
    WorkerInfo,
)
from wire.errors import BatonError, ErrorCode
from wire.kv import FabricAddress, KVHandle
from wire.messages import (
    BlockEvent,
    BlockSnapshot,
    CancelLeg,
    ClientFrame,
    FinishReason,
    GenerateRequest,
    Hello,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    SamplingParams,
    SnapshotRequest,
    StartLeg,
    TokenLogprobs,
    WorkerFrame,
    WorkerReport,
)

FINGERPRINT = Fingerprint("tiny", "r1", "float32", 16, "L2H2B16D8:float32")
REPORT_PERIOD_S = 0.03


def answer(prompt: tuple[int, ...], index: int) -> int:
    """The output token `index` of the model that all scripted workers share."""
    return (sum(prompt) * 31 + index * 7 + 3) % 1009


def expected(request: GenerateRequest) -> list[int]:
    return [answer(request.prompt_tokens, i) for i in range(request.sampling.max_tokens)]


def make_request(
    num_tokens: int = 200, max_tokens: int = 8, start: int = 1, stop: tuple[int, ...] = ()
) -> GenerateRequest:
    prompt = tuple(range(start, start + num_tokens))
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, stop_token_ids=stop)
    return GenerateRequest(f"r{start}", prompt, sampling, tuple(block_hashes(prompt)))


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Polls a condition that other tasks make true; the time-out is only for a broken test."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.002)


@dataclass
class Export:
    """A published prompt: `settled` when prefill is done, or failed with a reason."""

    worker: "ScriptedWorker"
    leg_id: int
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str = ""


class Fabric:
    """All exports of the cluster by handle id."""

    def __init__(self) -> None:
        self.exports: dict[bytes, Export] = {}
        self.fail_next = ""
        self._count = 0

    def publish(self, export: Export) -> bytes:
        self._count += 1
        handle_id = self._count.to_bytes(16, "big")
        self.exports[handle_id] = export
        return handle_id

    def release(self, handle_id: bytes) -> None:
        self.exports.pop(handle_id, None)

    def drop(self, worker: "ScriptedWorker", leg_id: int | None = None, why: str = "lost") -> None:
        for handle_id, export in list(self.exports.items()):
            if export.worker is worker and leg_id in (None, export.leg_id):
                export.failure = why
                export.settled.set()
                del self.exports[handle_id]


class ScriptedWorker:
    """Plays legs token by token: accepted, [published, prefilled | pulled], token:N, finished.

    pause(stage) holds every leg there, `reached(stage)` waits for a leg to get there.
    """

    def __init__(self, worker_id: str, role: Role, fabric: Fabric, epoch: int = 1) -> None:
        self.worker_id, self.role, self.fabric, self.epoch = worker_id, role, fabric, epoch
        self.fingerprint = FINGERPRINT
        self.max_model_len = 4096
        self.started: list[StartLeg] = []
        self.cancelled: list[int] = []
        self.failures: dict[str, ErrorCode] = {}
        self.num_cached_tokens = 0
        self.num_snapshot_requests = 0
        self.draining = False
        self.stuck = False
        self.sequence_number = 0
        self.blocks: dict[int, None] = {}
        self.token_delay_s = 0.0
        self._paused: dict[str, asyncio.Event] = {}
        self._reached: dict[str, asyncio.Event] = {}
        self._outs: list[asyncio.Queue[WorkerFrame]] = []
        self._legs: dict[int, asyncio.Task[None]] = {}
        self._orphans: set[int] = set()  # legs of sessions that ended
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._num_steps = 0
        self._port = 0
        self._server: rpc.Server | None = None

    # --- what tests do ---

    @property
    def info(self) -> WorkerInfo:
        return WorkerInfo(
            self.worker_id,
            self.epoch,
            self.role,
            f"127.0.0.1:{self._port}",
            FabricAddress("127.0.0.1", 1),
            self.fingerprint,
            self.max_model_len,
            1000,
        )

    @property
    def num_active(self) -> int:
        return len(self._legs)

    @property
    def num_sessions(self) -> int:
        return len(self._outs)

    def pause(self, stage: str) -> None:
        self._paused[stage] = asyncio.Event()

    def resume(self, stage: str) -> None:
        self._paused.pop(stage).set()

    async def reached(self, stage: str) -> None:
        async with asyncio.timeout(60):
            await self._reached.setdefault(stage, asyncio.Event()).wait()

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()
        self._cancel_orphans()

    def send_blocks(self, event: BlockEvent) -> None:
        for out in self._outs:
            out.put_nowait(WorkerFrame(block_events=(event,)))

    def send(self, event: LegEvent) -> None:
        for out in self._outs:
            out.put_nowait(WorkerFrame(events=(event,)))

    def store(self, hashes: tuple[int, ...]) -> None:
        self.blocks.update(dict.fromkeys(hashes))
        self.sequence_number += 1
        self.send_blocks(BlockEvent(self.sequence_number, stored=hashes))

    def last_leg_id(self) -> int:
        return self.started[-1].leg_id

    # --- process ---

    async def start(self, token: str = "") -> None:
        self._server = rpc.build_server(token)
        rpc.add_worker_service(self._server, self)
        self._port = rpc.bind(self._server, "127.0.0.1", self._port)
        await self._server.start()

    async def kill(self) -> None:
        """Everything breaks off at once, as with SIGKILL."""
        self.fabric.drop(self)
        server, self._server = self._server, None
        if server is not None:
            for out in self._outs:
                out.put_nowait(WorkerFrame())
            self._thawed.set()
            await server.stop(None)
        tasks = list(self._legs.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the service ---

    async def session(self, frames: AsyncIterator[ClientFrame]) -> AsyncIterator[WorkerFrame]:
        out: asyncio.Queue[WorkerFrame] = asyncio.Queue()
        legs: set[int] = set()
        tasks = [
            asyncio.create_task(self._read(frames, out, legs)),
            asyncio.create_task(self._report(out)),
        ]
        self._outs.append(out)
        try:
            while True:
                frame = await out.get()
                await self._thawed.wait()
                yield frame
        finally:
            self._outs.remove(out)
            for task in tasks:
                task.cancel()
            self._orphans |= legs
            if self._thawed.is_set():
                self._cancel_orphans()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self,
        frames: AsyncIterator[ClientFrame],
        out: asyncio.Queue[WorkerFrame],
        legs: set[int],
    ) -> None:
        async for frame in frames:
            await self._thawed.wait()
            if isinstance(frame, Hello):
                out.put_nowait(self._snapshot_frame())
                out.put_nowait(WorkerFrame(report=self._current_report()))
            elif isinstance(frame, SnapshotRequest):
                self.num_snapshot_requests += 1
                out.put_nowait(self._snapshot_frame())
            elif isinstance(frame, CancelLeg):
                self.cancelled.append(frame.leg_id)
                if self._cancel(frame.leg_id):
                    finished = LegFinished(frame.leg_id, FinishReason.CANCELLED)
                    out.put_nowait(WorkerFrame(events=(finished,)))
            else:
                self.started.append(frame)
                legs.add(frame.leg_id)
                self._legs[frame.leg_id] = asyncio.create_task(self._play(frame, out))

    def _cancel_orphans(self) -> None:
        orphans, self._orphans = self._orphans, set()
        for leg_id in orphans:
            self._cancel(leg_id)

    def _cancel(self, leg_id: int) -> bool:
        self.fabric.drop(self, leg_id, "released")
        task = self._legs.pop(leg_id, None)
        if task is not None:
            task.cancel()
        return task is not None

    def _snapshot_frame(self) -> WorkerFrame:
        return WorkerFrame(snapshot=BlockSnapshot(self.sequence_number, tuple(self.blocks)))

    def _current_report(self) -> WorkerReport:
        return WorkerReport(
            self.role,
            num_steps=self._num_steps,
            has_work=bool(self._legs),
            draining=self.draining,
            num_running=len(self._legs),
            num_blocks=1000,
            num_free_blocks=1000,
        )

    async def _report(self, out: asyncio.Queue[WorkerFrame]) -> None:
        while True:
            await asyncio.sleep(REPORT_PERIOD_S)
            if not self.stuck:
                self._num_steps += 1
            out.put_nowait(WorkerFrame(report=self._current_report()))

    async def _play(self, leg: StartLeg, out: asyncio.Queue[WorkerFrame]) -> None:
        def emit(*events: LegEvent) -> None:
            out.put_nowait(WorkerFrame(events=events))

        try:
            await self._stage("accepted")
            emit(LegAccepted(leg.leg_id, self.num_cached_tokens))
            if leg.prefill_only:
                await self._play_prefill(leg, emit)
            else:
                await self._play_decode(leg, emit)
        except _LegError as error:
            emit(LegFailed(leg.leg_id, error.code, f"{self.worker_id} fails the leg"))
            self.fabric.drop(self, leg.leg_id)
        finally:
            self._legs.pop(leg.leg_id, None)

    async def _play_prefill(self, leg: StartLeg, emit: Callable[..., None]) -> None:
        export = Export(self, leg.leg_id)
        await self._stage("published")
        handle_id = self.fabric.publish(export)
        num_tokens = len(leg.request.prompt_tokens) + len(leg.output_tokens)
        emit(
            LegPublished(
                leg.leg_id,
                KVHandle(handle_id, self.worker_id, self.epoch, self.info.fabric, num_tokens, 30.0),
            )
        )
        await self._stage("prefilled")
        export.settled.set()
        index = len(leg.output_tokens)
        await self._stage(f"token:{index}")
        emit(_tokens(leg, index))
        reason = _end(leg.request, index) or FinishReason.PREFILLED
        await self._stage("finished")
        if reason is not FinishReason.PREFILLED:
            self.fabric.drop(self, leg.leg_id, "the answer has ended")
        emit(LegFinished(leg.leg_id, reason, self.num_cached_tokens, 0.01, 0.02))

    async def _play_decode(self, leg: StartLeg, emit: Callable[..., None]) -> None:
        reason = None
        index = len(leg.output_tokens)
        if leg.handle is not None:
            has_arrived = await self._pull(leg.leg_id, leg.handle, emit)
            # The token that came along has its log-probability from the prefill worker alone.
            index += has_arrived and leg.request.sampling.top_logprobs is not None
        while reason is None:
            await self._stage(f"token:{index}")
            if self.token_delay_s:
                await asyncio.sleep(self.token_delay_s)
            reason = _end(leg.request, index)
            events: list[LegEvent] = [_tokens(leg, index)]
            if reason is not None and "finished" not in self._paused:
                events.append(LegFinished(leg.leg_id, reason, self.num_cached_tokens))
                emit(*events)
                return
            emit(*events)
            index += 1
        await self._stage("finished")
        emit(LegFinished(leg.leg_id, reason, self.num_cached_tokens))

    async def _pull(self, leg_id: int, handle: KVHandle, emit: Callable[..., None]) -> bool:
        await self._stage("pulled")
        export = self.fabric.exports.get(handle.handle_id)
        failure = "unknown handle"
        if self.fabric.fail_next:
            failure, self.fabric.fail_next = self.fabric.fail_next, ""
        elif export is not None:
            await export.settled.wait()
            failure = export.failure
            self.fabric.release(handle.handle_id)
        emit(LegTransferred(leg_id, 1000, 0.004, 0.001, "shm", failure))
        return not failure

    async def _stage(self, stage: str) -> None:
        self._reached.setdefault(stage, asyncio.Event()).set()
        if stage in self._paused:
            await self._paused[stage].wait()
        if stage in self.failures:
            raise _LegError(self.failures[stage])


class _LegError(Exception):
    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.value)
        self.code = code


def _tokens(leg: StartLeg, index: int) -> LegTokens:
    """The token of an index; its log-probability, where wanted, tells the index."""
    token = answer(leg.request.prompt_tokens, index)
    wanted = leg.request.sampling.top_logprobs is not None
    return LegTokens(leg.leg_id, index, (token,), (TokenLogprobs(-index),) if wanted else ())


def _end(request: GenerateRequest, index: int) -> FinishReason | None:
    if answer(request.prompt_tokens, index) in request.sampling.stop_token_ids:
        return FinishReason.STOP
    return FinishReason.LENGTH if index + 1 == request.sampling.max_tokens else None


class ScriptedControl:
    """A control plane that lists what it is told to."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerInfo] = {}
        self._version = 0
        self.pools: tuple[PoolProgress, ...] = ()
        self.serving = ServingMode()
        self.followed = ServingMode()  # by the gateway that came last
        self._queues: list[asyncio.Queue[ClusterSnapshot]] = []
        self._server: rpc.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = rpc.build_server()
        rpc.add_control_service(self._server, self)
        self.port = rpc.bind(self._server, "127.0.0.1", self.port)
        await self._server.start()

    async def kill(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
        self._server = None

    def list_worker(self, info: WorkerInfo) -> None:
        self.workers[info.worker_id] = info
        self._publish()

    def drop_worker(self, worker_id: str) -> None:
        del self.workers[worker_id]
        self._publish()

    def forget_all(self) -> None:
        self.workers.clear()

    def tell_pools(self, *pools: PoolProgress) -> None:
        self.pools = pools
        self._publish()

    def tell_mode(self, serving: ServingMode) -> None:
        self.serving = serving
        self._publish()

    def _publish(self) -> None:
        self._version += 1
        for queue in self._queues:
            queue.put_nowait(self._snapshot())

    def _snapshot(self) -> ClusterSnapshot:
        workers = tuple(self.workers.values())
        return ClusterSnapshot(self._version, workers, self.pools, self.serving)

    async def watch(self, client_id: str, follows: ServingMode) -> AsyncIterator[ClusterSnapshot]:
        self.followed = follows
        queue: asyncio.Queue[ClusterSnapshot] = asyncio.Queue()
        self._queues.append(queue)
        try:
            yield self._snapshot()
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)

    async def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[ControlOrder]:
        async for _ in beats:
            yield ControlOrder(OrderKind.ACK)

    async def status(self) -> ClusterStatus:
        return ClusterStatus(self._version)

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        raise BatonError(ErrorCode.UNAVAILABLE, "scripted workers take no orders")


class Cluster:
    """A router over scripted workers p0, p1, ... and d0, d1, ..., all in this process."""

    def __init__(self, **settings: object) -> None:
        self.settings = settings
        self.fabric = Fabric()
        self.control = ScriptedControl()
        self.metrics = Metrics(GATEWAY_METRICS)
        self.workers: dict[str, ScriptedWorker] = {}
        self._all_workers: list[ScriptedWorker] = []
        self.router: Router

    def __getitem__(self, worker_id: str) -> ScriptedWorker:
        return self.workers[worker_id]

    async def start(self, num_prefill: int, num_decode: int) -> None:
        await self.control.start()
        for i in range(num_prefill):
            await self.add(f"p{i}", Role.PREFILL)
        for i in range(num_decode):
            await self.add(f"d{i}", Role.DECODE)
        config = RouterConfig(
            control_address=f"127.0.0.1:{self.control.port}", client_id="test", **self.settings
        )
        self.router = Router(config, SystemClock(), self.metrics)
        await self.router.start()
        await self.all_live()

    async def add(
        self,
        worker_id: str,
        role: Role,
        *,
        epoch: int = 1,
        fingerprint: Fingerprint = FINGERPRINT,
    ) -> ScriptedWorker:
        worker = ScriptedWorker(worker_id, role, self.fabric, epoch)
        worker.fingerprint = fingerprint
        await worker.start()
        self.workers[worker_id] = worker
        self._all_workers.append(worker)
        self.control.list_worker(worker.info)
        return worker

    async def all_live(self) -> None:
        await until(lambda: self.states() == dict.fromkeys(self.workers, "live"))

    def states(self) -> dict[str, str]:
        return {view.worker_id: view.state.value for view in self.router.snapshot().workers}

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics._registry.get_sample_value(name, labels) or 0.0

    async def idle(self) -> None:
        """Nothing is left behind: no leg, no export, no open leg in the router."""
        await until(lambda: all(worker.num_active == 0 for worker in self.workers.values()))
        await until(lambda: not self.fabric.exports)
        assert all(view.num_legs == 0 for view in self.router.snapshot().workers)
        self.router.check_integrity()

    async def stop(self) -> None:
        await self.router.stop()
        self.router.check_integrity()
        for worker in self._all_workers:
            await worker.kill()
        await self.control.kill()


async def collect(
    cluster: Cluster, request: GenerateRequest, tokens: list[int] | None = None
) -> tuple[list[int], object]:
    """All tokens and the last delta; checks that there is one terminal event, at the end.

    `tokens` can be watched while the answer comes.
    """
    tokens = [] if tokens is None else tokens
    last = None
    deltas = cluster.router.generate(request)
    async with asyncio.timeout(60), contextlib.aclosing(deltas):
        async for delta in deltas:
            assert last is None, "a delta came behind the terminal one"
            tokens.extend(delta.tokens)
            if delta.finish_reason is not None:
                last = delta
    assert last is not None
    return tokens, last


def with_tokens(request: GenerateRequest, max_tokens: int) -> GenerateRequest:
    return replace(request, sampling=replace(request.sampling, max_tokens=max_tokens))
