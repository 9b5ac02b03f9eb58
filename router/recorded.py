"""The parts of a router that decide, each writing down what it is told before it acts on it."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

from router.affinity import SessionHomes
from router.breaker import CircuitBreaker
from router.config import RouterConfig
from router.load import LoadShare
from router.placement import Placement
from router.placer import Placer
from router.policies.policy import RequestFacts
from router.recording import (
    FORMAT,
    Accepted,
    Answered,
    Cancelled,
    Checked,
    Decoded,
    Elsewhere,
    Ended,
    Entry,
    Exposed,
    Failed,
    Forgiven,
    FrameCame,
    Head,
    Listed,
    Noted,
    Opening,
    Outcome,
    Placed,
    RecordingFile,
    Reserved,
    Settled,
    Started,
    Swept,
)
from router.replica import PlacementNote, ReplicaNotes
from router.session import LegSink, WorkerSession
from router.sessions import Sessions
from runtime.clock import Clock
from wire.cluster import ClusterSnapshot, Mode, ServingMode, WorkerInfo
from wire.errors import BatonError
from wire.messages import GenerateRequest, LegTokens, StartLeg, WorkerFrame
from wire.packed import pack_snapshot, pack_worker_frame

_SECRET = (
    "control_address",
    "cluster_token",
    "redis_url",
    "trace_log",
    "recording",
    "shadow_policies",
)


class Recorder:
    """The router's clock, which stands still while an entry is acted on, and its recording.

    Entries that follow from another one are not written: `then` writes the outermost alone.
    """

    def __init__(self, config: RouterConfig, clock: Clock) -> None:
        """Raises RecordingError for a file that cannot be written."""
        self._clock = clock
        self._file = RecordingFile(Path(config.recording), config.recording_bytes)
        self._pinned_s: float | None = None
        self._num_sessions = 0
        kept = {name: value for name, value in asdict(config).items() if name not in _SECRET}
        self._file.write(Head(clock.now(), FORMAT, kept))

    def now(self) -> float:
        return self._clock.now() if self._pinned_s is None else self._pinned_s

    def next_session(self) -> int:
        self._num_sessions += 1
        return self._num_sessions - 1

    def close(self) -> None:
        """What happens from here on is not written."""
        self._file.close()

    @contextmanager
    def then(self, entry: Callable[[float], Entry]) -> Iterator[None]:
        """Writes the entry, and holds the time while it is acted on."""
        if self._pinned_s is not None:
            yield
            return
        with self.pinned() as now_s:
            self._file.write(entry(now_s))
            yield

    @contextmanager
    def pinned(self) -> Iterator[float]:
        self._pinned_s = now_s = self._clock.now()
        try:
            yield now_s
        finally:
            self._pinned_s = None

    def write(self, entry: Entry) -> None:
        self._file.write(entry)


class RecordedSession(WorkerSession):
    """Numbered in the order of their making, which is the same in a replay."""

    def __init__(self, recorder: Recorder, *arguments: Any) -> None:
        self._recorder = recorder
        self._number = recorder.next_session()
        super().__init__(*arguments)

    def opening(self) -> None:
        with self._then(Opening):
            super().opening()

    def frame_came(self, frame: WorkerFrame) -> None:
        with self._recorder.then(lambda at_s: FrameCame(at_s, self._number, _encoded(frame))):
            super().frame_came(frame)

    def ended(self, reason: str) -> None:
        with self._then(Ended, reason):
            super().ended(reason)

    def check(self, now_s: float) -> None:
        if self.has_complaint(now_s):
            with self._then(Checked):
                super().check(self._recorder.now())

    def forgive(self, seconds: float) -> None:
        with self._then(Forgiven, seconds):
            super().forgive(seconds)

    def set_elsewhere(self, share: LoadShare) -> None:
        if share != self.load.elsewhere:
            with self._then(Elsewhere, astuple(share)):
                super().set_elsewhere(share)

    def answered(self, predicted_s: float, taken_s: float) -> None:
        with self._then(Answered, predicted_s, taken_s):
            super().answered(predicted_s, taken_s)

    def exposed(self, predicted_s: float, exposed_s: float) -> None:
        with self._then(Exposed, predicted_s, exposed_s):
            super().exposed(predicted_s, exposed_s)

    def decoded(self, predicted_s: float, taken_s: float) -> None:
        with self._then(Decoded, predicted_s, taken_s):
            super().decoded(predicted_s, taken_s)

    def reserve_leg(
        self, leg_id: int, *, compute_tokens: int, new_tokens: int, num_tokens: int = 0
    ) -> None:
        with self._then(Reserved, leg_id, compute_tokens, new_tokens, num_tokens):
            super().reserve_leg(
                leg_id, compute_tokens=compute_tokens, new_tokens=new_tokens, num_tokens=num_tokens
            )

    def start_leg(self, leg: StartLeg, sink: LegSink) -> None:
        num_tokens = len(leg.request.prompt_tokens) + len(leg.output_tokens)
        with self._then(Started, leg.leg_id, num_tokens):
            super().start_leg(leg, sink)

    def accept_leg(self, leg_id: int, num_tokens: int, num_cached_tokens: int) -> None:
        with self._then(Accepted, leg_id, num_tokens, num_cached_tokens):
            super().accept_leg(leg_id, num_tokens, num_cached_tokens)

    def cancel_leg(self, leg_id: int) -> None:
        with self._then(Cancelled, leg_id):
            super().cancel_leg(leg_id)

    def settle_leg(self, leg_id: int) -> None:
        with self._then(Settled, leg_id):
            super().settle_leg(leg_id)

    def _then(self, kind: Callable[..., Entry], *values: object) -> AbstractContextManager[None]:
        return self._recorder.then(lambda at_s: kind(at_s, self._number, *values))


class RecordedSessions(Sessions):
    """Makes recorded sessions, and writes the registry's lists down."""

    def __init__(self, recorder: Recorder, *arguments: Any) -> None:
        self._recorder = recorder
        super().__init__(*arguments)

    def update(self, workers: Sequence[WorkerInfo], mode: Mode = Mode.HYBRID) -> None:
        listed = ClusterSnapshot(0, tuple(workers), serving=ServingMode(mode))
        snapshot = pack_snapshot(listed)
        with self._recorder.then(lambda at_s: Listed(at_s, snapshot)):
            super().update(workers, mode)

    def end_idle_dropped(self) -> None:
        if self.has_idle_dropped:
            with self._recorder.then(Swept):
                super().end_idle_dropped()

    def _make_session(self, *arguments: Any) -> WorkerSession:
        return RecordedSession(self._recorder, *arguments)


class RecordedBreaker(CircuitBreaker):
    def __init__(self, recorder: Recorder, *arguments: Any) -> None:
        self._recorder = recorder
        super().__init__(*arguments)

    def failed(self, worker_id: str, epoch: int, now_s: float) -> None:
        with self._recorder.then(lambda at_s: Failed(at_s, worker_id, epoch)):
            super().failed(worker_id, epoch, self._recorder.now())


class RecordedNotes(ReplicaNotes):
    def __init__(self, recorder: Recorder, *arguments: Any) -> None:
        self._recorder = recorder
        super().__init__(*arguments)

    def take(self, note: PlacementNote, age_s: float, now_s: float) -> None:
        told = note.workers, tuple(note.hashes), digest(note.session), note.home, age_s
        with self._recorder.then(lambda at_s: Noted(at_s, *told)):
            super().take(note, age_s, self._recorder.now())


class RecordedHomes(SessionHomes):
    """Sessions go by their digests, here as in a replay, which knows no others."""

    def home(self, session: str, now_s: float) -> str:
        return super().home(digest(session), now_s)

    def ran(self, session: str, worker_id: str, now_s: float) -> None:
        super().ran(digest(session), worker_id, now_s)


class RecordedPlacer(Placer):
    """Writes each question with its answer."""

    def __init__(self, recorder: Recorder, *arguments: Any) -> None:
        self._recorder = recorder
        super().__init__(*arguments)

    def place(
        self,
        request: GenerateRequest,
        num_sent: int,
        excluded: frozenset[tuple[str, int]],
        waited_s: float = 0.0,
    ) -> tuple[Placement, RequestFacts] | None:
        asked = request, num_sent, excluded, waited_s
        with self._recorder.pinned() as now_s:
            try:
                placed = super().place(*asked)
            except BatonError as error:
                refusal = Outcome(refused=error.message)
                self._recorder.write(_question(now_s, *asked, refusal))
                raise
            outcome = outcome_of(None if placed is None else placed[0])
            self._recorder.write(_question(now_s, *asked, outcome))
        return placed


def outcome_of(placement: Placement | None) -> Outcome:
    if placement is None:
        return Outcome()
    return Outcome(
        placement.prefill or "", placement.decode, placement.kind.value, placement.explanation
    )


def digest(session: str) -> str:
    """A session's name in a recording: equal for equal names, and no more than that."""
    return session and hashlib.blake2b(session.encode(), digest_size=8).hexdigest()


def _question(
    at_s: float,
    request: GenerateRequest,
    num_sent: int,
    excluded: frozenset[tuple[str, int]],
    waited_s: float,
    outcome: Outcome,
) -> Placed:
    terms = request.terms
    return Placed(
        at_s,
        len(request.prompt_tokens),
        request.sampling.max_tokens,
        tuple(request.block_hashes),
        outcome,
        num_sent,
        tuple(sorted(excluded)),
        request.priority,
        terms.ttft_slo_s,
        terms.tpot_slo_s,
        digest(terms.session),
        terms.model,
        waited_s,
    )


def _encoded(frame: WorkerFrame) -> bytes:
    events = tuple(
        LegTokens(event.leg_id, event.index, ()) if isinstance(event, LegTokens) else event
        for event in frame.events
    )
    return pack_worker_frame(replace(frame, events=events))
