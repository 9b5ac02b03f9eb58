"""One worker as the router sees it: a multiplexed stream of legs, its load and its liveness."""

from collections.abc import Callable
from dataclasses import dataclass

from router.candidates import Candidate, WorkerState, WorkerView
from router.config import RouterConfig
from router.liveness import Liveness
from router.load import LoadShare, WorkerLoad
from router.parts import LIVE_PARTS, Parts
from router.predictor import StepPredictor
from router.prefix_map import PrefixMap
from runtime.clock import Clock
from runtime.log import get_logger
from wire.cluster import WorkerInfo
from wire.errors import ErrorCode
from wire.messages import (
    CancelLeg,
    ContinueLeg,
    FinishReason,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegTokens,
    LegTransferred,
    Role,
    SnapshotRequest,
    StartLeg,
    WorkerFrame,
    WorkerReport,
)

LegSink = Callable[[LegEvent], None]
_log = get_logger("router")


@dataclass(slots=True)
class _OpenLeg:
    sink: LegSink
    num_tokens: int
    has_tokens: bool = False


class WorkerSession:
    """Keeps one stream to one worker process (worker_id and epoch), reopened when it breaks.

        CONNECTING --first believable report--> LIVE <--> DRAINING
        any --stream broke, silent, or stuck--> LOST --backoff--> CONNECTING

    On loss every open leg gets LegFailed WORKER_LOST, and closing the stream makes the worker
    cancel its legs as soon as it can. A leg that ended with PREFILLED stays open as an export
    until it is settled or cancelled. Owns the legs, the load and the worker's share of the
    prefix map; `on_change` tells that the candidate or the state changed.
    """

    def __init__(
        self,
        info: WorkerInfo,
        group: int,
        config: RouterConfig,
        clock: Clock,
        prefix_map: PrefixMap,
        on_change: Callable[[], None],
        pool: StepPredictor | None = None,
        parts: Parts = LIVE_PARTS,
    ) -> None:
        self.info = info
        self.load = WorkerLoad()
        self.forecast = parts.new_forecast(pool)
        self.forecast.measured(_best_bytes_s(info))
        self.state = WorkerState.CONNECTING
        self._group = group
        self._stream = parts.open_stream(info.address, config, self)
        self._clock = clock
        self._prefix_map = prefix_map
        self._on_change = on_change
        self._liveness = Liveness(config.heartbeat_timeout_s, config.step_timeout_s, clock.now())
        self._legs: dict[int, _OpenLeg] = {}
        self._candidate: Candidate | None = None
        self._is_closed = False
        self._last_loss = ""  # a worker that stays away is logged once

    @property
    def role(self) -> Role:
        """The role that the worker reports; it may flip while it serves."""
        report, info = self.load.report, self.info
        return info.role if report is None or info.role_epoch > report.role_epoch else report.role

    @property
    def group(self) -> int:
        """Sessions of one group may take over from each other."""
        return self._group

    @property
    def is_leaving(self) -> bool:
        """The worker decodes nothing from here on."""
        return self.state is WorkerState.DRAINING or self.role is Role.PREFILL

    @property
    def num_legs(self) -> int:
        return len(self._legs)

    def open(self) -> None:
        self._stream.open()

    def close(self) -> None:
        """Ends the stream for good; open legs fail with WORKER_LOST."""
        self._is_closed = True
        self.ended("its session was closed")
        self._stream.close()

    async def wait_closed(self) -> None:
        await self._stream.wait_closed()

    def update(self, info: WorkerInfo) -> None:
        """The registry says something new about the same process, for instance that it drains."""
        self.info = info
        self.forecast.measured(_best_bytes_s(info))
        self._settle()

    def candidate(self) -> Candidate | None:
        """This worker's load as a value, None while it takes no new legs."""
        if self.state is not WorkerState.LIVE:
            return None
        if self._candidate is None:
            load = self.load
            self._candidate = Candidate(
                self.info.worker_id,
                self.info.epoch,
                self.role,
                self._group,
                load.num_seqs,
                load.waiting_tokens,
                load.num_free_blocks,
                self.info.num_blocks,
                self.forecast.outlook(load),
                self.info.fingerprint.model,
            )
        return self._candidate

    def view(self) -> WorkerView:
        return WorkerView(
            self.info.worker_id,
            self.info.epoch,
            self.role,
            self.state,
            self.info.address,
            len(self._legs),
            self.load.num_seqs,
            self.load.waiting_tokens,
            self.info.num_blocks,
            self.load.num_free_blocks,
            self._prefix_map.num_blocks(self.info.worker_id),
        )

    def set_elsewhere(self, share: LoadShare) -> None:
        """What other routers' legs add to this worker's report."""
        if share != self.load.elsewhere:
            self.load.elsewhere = share
            self._changed()

    # --- legs ---------------------------------------------------------------------------------

    def reserve_leg(
        self, leg_id: int, *, compute_tokens: int, new_tokens: int, num_tokens: int = 0
    ) -> None:
        """Counts a leg that was placed here, before it starts. Ended by cancel_leg or its end."""
        self.load.reserve(
            leg_id, compute_tokens=compute_tokens, new_tokens=new_tokens, num_tokens=num_tokens
        )
        self._changed()

    def start_leg(self, leg: StartLeg, sink: LegSink) -> None:
        """Starts a reserved leg; `sink` gets its events, the last one is its end.

        A worker that was lost in the meantime ends the leg at once.
        """
        if self.state not in (WorkerState.LIVE, WorkerState.DRAINING):
            self._end_load(leg.leg_id)
            sink(LegFailed(leg.leg_id, ErrorCode.WORKER_LOST, f"{self.info.worker_id} is gone"))
            return
        num_tokens = len(leg.request.prompt_tokens) + len(leg.output_tokens)
        self._legs[leg.leg_id] = _OpenLeg(sink, num_tokens)
        self.forecast.step.counted(self.load.waiting_tokens, self._clock.now(), False)
        self._changed()
        self._stream.send(leg)

    def continue_leg(self, told: ContinueLeg) -> None:
        """Tells a leg that waits the tokens so far; nothing happens when it has ended."""
        if told.leg_id in self._legs:
            self._stream.send(told)

    def accept_leg(self, leg_id: int, num_tokens: int, num_cached_tokens: int) -> None:
        """The worker has the leg, and knows how much of it is cached: its next report counts it."""
        self.load.accepted(leg_id, num_tokens=num_tokens, num_cached_tokens=num_cached_tokens)
        self._changed()

    def cancel_leg(self, leg_id: int) -> None:
        """Ends a reserved or open leg, or an export; its sink hears no more. Safe to repeat."""
        self._end_load(leg_id)
        if self._legs.pop(leg_id, None) is not None:
            self._stream.send(CancelLeg(leg_id))

    def settle_leg(self, leg_id: int) -> None:
        """The KV of a prefill leg that has ended was pulled: the worker keeps nothing of it."""
        self._legs.pop(leg_id, None)

    def answered(self, predicted_s: float, taken_s: float) -> None:
        """A first token came taken_s after its placement; its queue and prefill were predicted."""
        self.forecast.answered(predicted_s, taken_s)
        self._changed()

    def exposed(self, predicted_s: float, exposed_s: float) -> None:
        """Of a pull exposed_s were exposed, of which rate and backlog explained predicted_s."""
        self.forecast.exposed(predicted_s, exposed_s)
        self._changed()

    def decoded(self, predicted_s: float, taken_s: float) -> None:
        """An answer's tokens took taken_s each; predicted_s was forecast. All workers of the kind
        learn of it, each with its next change."""
        self.forecast.decoded(predicted_s, taken_s)

    # --- liveness -----------------------------------------------------------------------------

    def check(self, now_s: float) -> None:
        """Loses the worker when it is silent or stuck."""
        if self.state is WorkerState.LOST:
            return
        complaint = self._liveness.complaint(now_s)
        if complaint is not None:
            self.ended(complaint)
            self._stream.break_off()

    def has_complaint(self, now_s: float) -> bool:
        """check() would lose the worker."""
        return self.state is not WorkerState.LOST and self._liveness.would_complain(now_s)

    def forgive(self, seconds: float) -> None:
        self._liveness.forgive(seconds)

    # --- what the stream tells ----------------------------------------------------------------

    def opening(self) -> None:
        self.state = WorkerState.CONNECTING
        self._prefix_map.expect_snapshot(self.info.worker_id)
        self._liveness.opened(self._clock.now())
        self._changed()

    def frame_came(self, frame: WorkerFrame) -> None:
        if self._is_closed or self.state is WorkerState.LOST:
            return
        now_s = self._clock.now()
        self._liveness.frame_came(now_s)
        for event in frame.events:
            self._dispatch(event)
        if frame.snapshot is not None:
            self._prefix_map.load_snapshot(self.info.worker_id, frame.snapshot)
        for blocks in frame.block_events:
            if not self._prefix_map.apply(self.info.worker_id, blocks):
                self._stream.send(SnapshotRequest())
        if frame.report is not None:
            self._take_report(frame.report, now_s)

    def ended(self, reason: str) -> None:
        """The worker is lost, whoever found out; of several reasons the first counts."""
        if self.state is WorkerState.LOST:
            return
        if reason != self._last_loss and not self._is_closed:
            _log.warning("worker lost", worker=self.info.worker_id, reason=reason)
        self._last_loss = reason
        self.state = WorkerState.LOST
        self.load.forget()
        legs, self._legs = self._legs, {}
        self._changed()
        for leg_id, leg in legs.items():
            message = f"{self.info.worker_id} was lost: {reason}"
            leg.sink(LegFailed(leg_id, ErrorCode.WORKER_LOST, message))

    def _take_report(self, report: WorkerReport, now_s: float) -> None:
        self._stream.works()
        self._liveness.report_came(now_s, report)
        self.load.reported(report)
        self.forecast.reported(report.totals, now_s)
        self.forecast.step.reported(report, self.load.waiting_tokens, now_s)
        self._settle()

    def _settle(self) -> None:
        report = self.load.report
        if self.state is not WorkerState.LOST and report is not None:
            if self.info.draining or report.draining:
                self.state = WorkerState.DRAINING
            elif not self._liveness.is_stuck:
                self.state = WorkerState.LIVE
                self._last_loss = ""
        self._changed()

    def _dispatch(self, event: LegEvent) -> None:
        leg = self._legs.get(event.leg_id)
        if leg is None:
            return
        if isinstance(event, LegTokens):
            if not leg.has_tokens:
                leg.has_tokens = True
                self.load.computed(event.leg_id)
                self.forecast.step.counted(self.load.waiting_tokens, self._clock.now(), True)
                self._changed()
        elif isinstance(event, LegTransferred) and not event.failure:
            self.forecast.transferred(leg.num_tokens, event.num_bytes, event.transfer_s)
            self._changed()
        elif isinstance(event, LegAccepted):
            self.accept_leg(event.leg_id, leg.num_tokens, event.num_cached_tokens)
        elif isinstance(event, LegFinished | LegFailed):
            self._end_load(event.leg_id)
            if not _leaves_export(event):
                del self._legs[event.leg_id]
        leg.sink(event)

    def _end_load(self, leg_id: int) -> None:
        self.load.ended(leg_id)
        self._changed()

    def _changed(self) -> None:
        """Whatever a candidate is made of may be another: nothing else of it ever changes."""
        self.forecast.renew()
        self._candidate = None
        self._on_change()


def _best_bytes_s(info: WorkerInfo) -> float:
    """Of the fastest way into the worker; 0 where none was measured."""
    return max((pair.bandwidth_bytes_s for pair in info.pairs), default=0.0)


def _leaves_export(event: LegFinished | LegFailed) -> bool:
    return isinstance(event, LegFinished) and event.reason is FinishReason.PREFILLED
