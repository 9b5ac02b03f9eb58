"""A worker process as the wire shows it: commands in, frames out, around a modelled engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from profiles.profile import Profile
from simulate.batch import WorkerLimits
from simulate.event_loop import EventLoop
from simulate.leg import Leg
from simulate.leg_book import LegBook, handle_of
from simulate.links import Links
from simulate.spec import Overheads
from simulate.stream import SimulatedStream
from simulate.worker import ModelledWorker
from wire.cluster import Fingerprint, WorkerInfo
from wire.errors import ErrorCode
from wire.kv import FabricAddress
from wire.messages import (
    BlockEvent,
    BlockSnapshot,
    CancelLeg,
    ClientFrame,
    FinishReason,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    SnapshotRequest,
    StartLeg,
    WorkerFrame,
    WorkerReport,
)

_LAYOUT = "L1H1B16D8:bfloat16"


@dataclass(frozen=True, slots=True)
class World:
    """What all processes of a simulation share. seed: of their steps' scatter."""

    loop: EventLoop
    legs: LegBook
    links: Links
    overheads: Overheads
    seed: int


class SimulatedProcess:
    """One worker process (worker_id and epoch). A new process of the same id is another object.

        serving --die--> dead;   serving --freeze--> frozen --time--> serving

    While frozen it neither reads nor sends; a session that was left meanwhile ends with the thaw.
    """

    def __init__(
        self, worker_id: str, epoch: int, role: Role, profile: Profile, limits: WorkerLimits,
        world: World, group: str = "",
    ) -> None:  # fmt: skip
        self.engine = ModelledWorker(
            worker_id, role, profile, limits, world.loop, self, world.links,
            Random(f"steps-{world.seed}-{worker_id}-{epoch}"),
        )  # fmt: skip
        self.worker_id = worker_id
        self.epoch = epoch
        self.profile = profile
        self.is_draining = False
        self.is_flipping = False
        self.is_reachable = True
        self._group = group
        self._world = world
        self._loop = world.loop
        self._streams: list[SimulatedStream] = []
        self._events: list[LegEvent] = []
        self._blocks: list[BlockEvent] = []
        self._is_flush_due = False
        self._frozen_until_s = 0.0

    @property
    def role(self) -> Role:
        return self.engine.role

    @property
    def takes_legs(self) -> bool:
        return self.is_reachable and not (self.is_draining or self.is_flipping)

    @property
    def is_frozen(self) -> bool:
        return self._loop.now() < self._frozen_until_s

    @property
    def address(self) -> str:
        return f"{self.worker_id}/{self.epoch}"

    def info(self, sources: Sequence[str] = ()) -> WorkerInfo:
        """sources: the workers from which the way into this one is measured."""
        profile, links = self.profile, self._world.links
        return WorkerInfo(
            worker_id=self.worker_id,
            epoch=self.epoch,
            role=self.role,
            address=self.address,
            fabric=FabricAddress("", 0),
            fingerprint=Fingerprint(self._group, "", "bfloat16", 16, _LAYOUT),
            max_model_len=profile.max_model_len,
            num_blocks=self.engine.num_blocks,
            draining=self.is_draining,
            pairs=tuple(
                links.measured(source, self.worker_id, profile)
                for source in sources
                if source != self.worker_id
            ),
        )

    def report(self) -> WorkerReport:
        report = self.engine.report()
        if self.is_draining or self.is_flipping:
            return replace(report, draining=True)
        return report

    def send_report(self) -> None:
        """To every session, now."""
        if self.is_reachable and not self.is_frozen:
            for stream in self._streams:
                stream.tell(WorkerFrame(report=self.report()))

    def reports(self) -> list[tuple[SimulatedStream, int, WorkerFrame]]:
        """The regular report, for whoever delivers many at a time."""
        if not self._streams or not self.is_reachable or self.is_frozen:
            return []
        frame = WorkerFrame(report=self.report())
        return [(stream, stream.number, frame) for stream in self._streams]

    # --- faults --------------------------------------------------------------------------------

    def die(self) -> None:
        """Killed. What it had sent arrives; then its connections break."""
        self.engine.die()
        self._tell_progress()
        self.is_reachable = False
        for stream in self._streams:
            stream.lost("the connection was reset")
        self._streams.clear()

    def freeze(self, seconds: float) -> None:
        """Stopped, as by SIGSTOP."""
        self.engine.freeze(seconds)
        self._tell_progress()
        self._frozen_until_s = self._loop.now() + seconds
        self._loop.at(self._frozen_until_s, self._flush)

    def _tell_progress(self) -> None:
        """The tokens of steps that are done went out with their steps."""
        for leg in self.engine.legs:
            self._tell_tokens(leg)
        self._flush()

    # --- the session ---------------------------------------------------------------------------

    def joined(self, stream: SimulatedStream) -> None:
        if self.is_frozen:
            self._loop.at(self._frozen_until_s, stream.connect, stream.number)
            return
        self._streams.append(stream)
        frame = WorkerFrame(report=self.report(), snapshot=self._snapshot())
        if self._loop.now():
            stream.tell(frame)
        else:
            stream.arrive(stream.number, frame)

    def left(self, stream: SimulatedStream) -> None:
        if self.is_frozen:
            self._loop.at(self._frozen_until_s, self.left, stream)
        elif stream in self._streams:
            self._streams.remove(stream)
            for leg in self.engine.legs:
                self.engine.cancel(leg)

    def take(self, frame: ClientFrame) -> None:
        if isinstance(frame, StartLeg):
            self._start(frame)
        elif isinstance(frame, CancelLeg):
            leg = self.engine.find(frame.leg_id)
            if leg is not None:
                self.engine.cancel(leg)
        elif isinstance(frame, SnapshotRequest):
            for stream in self._streams:
                stream.tell(WorkerFrame(snapshot=self._snapshot()))

    def _start(self, frame: StartLeg) -> None:
        request, num_sent = frame.request, len(frame.output_tokens)
        leg = Leg(
            leg_id=frame.leg_id,
            request_id=request.request_id,
            num_known=len(request.prompt_tokens) + num_sent,
            num_left=request.sampling.max_tokens - num_sent,
            keys=self._world.legs.keys(request.request_id),
            prefill_only=frame.prefill_only,
            is_share=frame.share,
            source=self._world.legs.source(frame.handle),
            first_index=num_sent,
        )
        self._world.legs.add(leg)
        self.engine.start(leg)

    def _snapshot(self) -> BlockSnapshot:
        return self.engine.snapshot()

    # --- what the engine tells -----------------------------------------------------------------

    def accepted(self, leg: Leg) -> None:
        self._tell(LegAccepted(leg.leg_id, leg.num_cached))

    def published(self, leg: Leg) -> None:
        if leg.is_share and not leg.num_computed:
            message = "the prefix cache holds no full unit of these tokens"
            self._tell(LegFailed(leg.leg_id, ErrorCode.TRANSFER_FAILED, message))
            return
        self._tell(LegPublished(leg.leg_id, handle_of(leg)))
        if leg.is_share:
            self._tell(LegFinished(leg.leg_id, FinishReason.PREFILLED, leg.num_computed))

    def tokens_came(self, leg: Leg, is_last: bool) -> None:
        self._tell_tokens(leg)
        if is_last or leg.prefill_only:
            reason = FinishReason.LENGTH if is_last else FinishReason.PREFILLED
            queue_s = leg.scheduled_s - leg.added_s
            prefill_s = leg.first_s - leg.scheduled_s
            self._tell(LegFinished(leg.leg_id, reason, leg.num_cached, queue_s, prefill_s))

    def transferred(self, leg: Leg, failure: str) -> None:
        num_bytes = leg.num_pulled * self.profile.kv_bytes_per_token
        transfer_s = leg.pull_ended_s - leg.pull_begun_s
        exposed_s = leg.pull_ended_s - max(leg.prefilled_s, leg.pull_begun_s)
        self._tell(
            LegTransferred(leg.leg_id, num_bytes, transfer_s, exposed_s, "simulated", failure)
        )

    def blocks_changed(self, event: BlockEvent) -> None:
        self._blocks.append(event)
        self._flush_soon()

    def _tell_tokens(self, leg: Leg) -> None:
        num_new = self.engine.num_made(leg) - leg.num_told
        if num_new > 0:
            index = leg.first_index + leg.num_told
            leg.num_told += num_new
            self._tell(LegTokens(leg.leg_id, index, (0,) * num_new))

    def _tell(self, event: LegEvent) -> None:
        self._events.append(event)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One frame for all that a step brought about."""
        self._is_flush_due = False
        if self.is_frozen or not (self._events or self._blocks):
            return
        frame = WorkerFrame(tuple(self._events), block_events=tuple(self._blocks))
        self._events.clear()
        self._blocks.clear()
        for stream in self._streams:
            stream.tell(frame)
