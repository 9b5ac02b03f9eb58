"""Which workers are alive: heartbeats in, versioned snapshots out."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from control_plane.pace import Pace
from runtime.clock import Clock
from wire.cluster import (
    ClusterSnapshot,
    ControlOrder,
    Mode,
    PoolProgress,
    ServingMode,
    WorkerBeat,
    WorkerInfo,
    WorkerStatus,
)
from wire.errors import BatonError, ErrorCode
from wire.messages import Role, WorkerReport

_REMEMBER_EPOCH_S = 600.0


@dataclass(slots=True)
class _Member:
    info: WorkerInfo
    report: WorkerReport
    beat_at_s: float
    silence_s: float  # how long it may be silent
    stream: object  # that its last beat came over
    orders: "asyncio.Queue[ControlOrder]" = field(default_factory=asyncio.Queue)


class Registry:
    """The one owner of liveness. All calls come from one event loop.

    A worker_id's epochs grow: a higher epoch replaces a lower one, and a lower one is refused,
    also for ten minutes after the higher one left.

        unknown --beat--> live --silence_s without a beat | clean close | process died--> gone
                           ^                                                               |
                           +---------------------- beat of the same or a higher epoch -----+

    silence_s is the pace's for a worker that is connected, and its base for one whose stream broke.
    """

    def __init__(self, clock: Clock, pace: Pace | None = None) -> None:
        self._clock = clock
        self._pace = pace or Pace()
        self._members: dict[str, _Member] = {}
        self._departed: dict[str, tuple[int, float]] = {}  # worker_id -> (epoch, left_at_s)
        self._pools: tuple[PoolProgress, ...] = ()
        self._serving = ServingMode()
        self._version = 0
        self._snapshot = ClusterSnapshot(version=0)  # of some version: built when it is asked for
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        """Of the snapshot: grows at each change of the members."""
        return self._version

    @property
    def snapshot(self) -> ClusterSnapshot:
        if self._snapshot.version != self._version:
            workers = tuple(member.info for _, member in sorted(self._members.items()))
            self._snapshot = ClusterSnapshot(self._version, workers, self._pools, self._serving)
        return self._snapshot

    def sizes(self) -> Counter[Role]:
        """Live workers by role."""
        return Counter(member.info.role for member in self._members.values())

    @property
    def pools(self) -> tuple[PoolProgress, ...]:
        """As told last."""
        return self._pools

    def tell_pools(self, pools: tuple[PoolProgress, ...]) -> None:
        """How far the platform is, for the watchers; what is no news makes no snapshot."""
        if pools != self._pools:
            self._pools = pools
            self._publish()

    @property
    def serving(self) -> ServingMode:
        """The mode that gateways follow."""
        return self._serving

    def tell_mode(self, mode: Mode) -> None:
        """Gateways are to follow it from here on."""
        if mode is not self._serving.mode:
            self._serving = ServingMode(mode, self._serving.epoch + 1)
            self._publish()

    def heard_mode(self, follows: ServingMode) -> None:
        """A gateway follows this: an older process told it, if its epoch is the higher one."""
        if follows.epoch > self._serving.epoch:
            self._serving = follows
            self._publish()

    @property
    def interval_s(self) -> float:
        """What a worker waits between two beats."""
        return self._pace.interval_s(len(self._members))

    def wait_s(self, worker_id: str) -> float:
        """What a worker is asked to wait until its next beat; 0: its own second."""
        return self._pace.told_s(len(self._members), worker_id, self._clock.now())

    def beat(self, beat: WorkerBeat, stream: object = None) -> bool:
        """Applies a heartbeat. False when a newer process has this worker_id: the beat is late.

        stream: what it came over, as `disconnected` names it.
        """
        info = beat.info
        if info.epoch < self._highest_epoch(info.worker_id):
            return False
        known = self._members.get(info.worker_id)
        self._departed.pop(info.worker_id, None)
        is_news = known is None or known.info != info
        if known is not None and not is_news:
            info = known.info  # the same object, so that who compares it is done at once
        silence_s = self._pace.silence_s(len(self._members) + (known is None))
        member = _Member(info, beat.report, self._clock.now(), silence_s, stream)
        if known is not None and known.info.epoch == info.epoch:
            member.orders = known.orders
        self._members[info.worker_id] = member
        if is_news:
            self._publish()
        return True

    def order(self, worker_id: str, order: ControlOrder) -> None:
        """Leaves an order for a live worker, which hears it at once over its Register stream.

        Raises BatonError UNAVAILABLE when no such worker is live.
        """
        member = self._members.get(worker_id)
        if member is None:
            raise BatonError(ErrorCode.UNAVAILABLE, f"no worker {worker_id!r} is live")
        member.orders.put_nowait(order)

    async def next_order(self, worker_id: str, epoch: int) -> ControlOrder:
        """Waits for an order to this process. Raises BatonError UNAVAILABLE when it is not live."""
        member = self._members.get(worker_id)
        if member is None or member.info.epoch != epoch:
            raise BatonError(ErrorCode.UNAVAILABLE, f"no worker {worker_id!r} is live")
        return await member.orders.get()

    def remove(self, worker_id: str, epoch: int) -> bool:
        """Drops a worker that said goodbye. False when this epoch is not the live one."""
        member = self._members.get(worker_id)
        if member is None or member.info.epoch != epoch:
            return False
        self._drop([member])
        return True

    def disconnected(self, worker_id: str, stream: object) -> None:
        """The stream broke: a worker that beat over it comes back soon, or has died."""
        member = self._members.get(worker_id)
        if member is not None and member.stream is stream:
            passed_s = self._clock.now() - member.beat_at_s
            member.silence_s = min(member.silence_s, passed_s + self._pace.timeout_s)

    def remove_process(self, worker_id: str, pid: int) -> bool:
        """Drops a worker whose process is known to be dead. False when another process has it."""
        member = self._members.get(worker_id)
        if member is None or member.info.pid != pid:
            return False
        self._drop([member])
        return True

    def expire(self) -> tuple[WorkerInfo, ...]:
        """Drops and gives the workers that have been silent for too long."""
        now_s = self._clock.now()
        silent = [
            member
            for member in self._members.values()
            if now_s - member.beat_at_s > member.silence_s
        ]
        if silent:
            self._drop(silent)
        self._departed = {
            worker_id: (epoch, left_at_s)
            for worker_id, (epoch, left_at_s) in self._departed.items()
            if now_s - left_at_s <= _REMEMBER_EPOCH_S
        }
        return tuple(member.info for member in silent)

    def restore(self, beats: Sequence[WorkerBeat]) -> int:
        """Takes over what another control plane knew, as if it had been heard now; gives how many
        workers are new here. Who does not beat by itself expires like any other."""
        new = [beat for beat in beats if beat.info.epoch > self._highest_epoch(beat.info.worker_id)]
        now_s, silence_s = self._clock.now(), self._pace.silence_s(len(self._members) + len(new))
        for beat in new:
            self._departed.pop(beat.info.worker_id, None)
            self._members[beat.info.worker_id] = _Member(
                beat.info, beat.report, now_s, silence_s, None
            )
        if new:
            self._publish()
        return len(new)

    def excuse(self, pause_s: float) -> None:
        """Moves every deadline: this process itself was paused, nobody could have been heard."""
        now_s = self._clock.now()
        for member in self._members.values():
            member.beat_at_s = min(now_s, member.beat_at_s + pause_s)

    def beats(self) -> Iterator[WorkerBeat]:
        """What every live worker said last."""
        return (WorkerBeat(member.info, member.report) for member in self._members.values())

    def status(self) -> tuple[WorkerStatus, ...]:
        """Every live worker with its last report and the age of its last beat."""
        now_s = self._clock.now()
        return tuple(
            WorkerStatus(member.info, member.report, now_s - member.beat_at_s)
            for _, member in sorted(self._members.items())
        )

    async def after(self, version: int) -> ClusterSnapshot:
        """The first snapshot that differs from `version`; a slow watcher skips those between."""
        while self._version == version:
            await self._changed.wait()
        return self.snapshot

    def check_integrity(self) -> None:
        """Asserts that the snapshot shows the members, and that nobody is both here and gone."""
        members = {worker_id: member.info for worker_id, member in self._members.items()}
        assert members == {worker.worker_id: worker for worker in self.snapshot.workers}
        assert not members.keys() & self._departed.keys()

    def _highest_epoch(self, worker_id: str) -> int:
        member = self._members.get(worker_id)
        return member.info.epoch if member else self._departed.get(worker_id, (0, 0.0))[0]

    def _drop(self, members: list[_Member]) -> None:
        now_s = self._clock.now()
        for member in members:
            del self._members[member.info.worker_id]
            self._departed[member.info.worker_id] = (member.info.epoch, now_s)
        self._publish()

    def _publish(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()
