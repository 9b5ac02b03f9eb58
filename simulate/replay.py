"""A recorded router's decisions made again, offline, by the same code from the same events."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.config import RouterConfig
from router.core import Core, build_core
from router.load import LoadShare
from router.parts import Parts
from router.recorded import outcome_of
from router.recording import (
    Accepted,
    Answered,
    AnyEntry,
    Cancelled,
    Checked,
    Decoded,
    Elsewhere,
    Ended,
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
    RecordingError,
    Reserved,
    Settled,
    Started,
    Swept,
    read_recording,
)
from router.replica import PlacementNote
from router.session import WorkerSession
from router.stream import StreamOwner
from simulate.event_loop import EventLoop
from simulate.silence import SilentMetrics
from wire.errors import BatonError
from wire.messages import GenerateRequest, RequestTerms, SamplingParams, StartLeg
from wire.packed import unpack_snapshot, unpack_worker_frame

_ANY = SamplingParams()


@dataclass(frozen=True, slots=True)
class Difference:
    """A placement that the replay made otherwise. ordinal: from 0, of all placements."""

    ordinal: int
    at_s: float
    recorded: Outcome
    replayed: Outcome


@dataclass(slots=True)
class Replayed:
    """num_refused, num_without: placements that were refused, or found no worker."""

    num_entries: int = 0
    num_placements: int = 0
    num_refused: int = 0
    num_without: int = 0
    differences: list[Difference] = field(default_factory=list)


class _Still:
    """The stream of a session whose frames come from the recording."""

    def open(self) -> None: ...

    def send(self, frame: object) -> None: ...

    def works(self) -> None: ...

    def break_off(self) -> None: ...

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class _Replay:
    """The recorded parts of a router, told what the recording says, at its times."""

    def __init__(self, head: Head, loop: EventLoop) -> None:
        self._loop = loop
        self._sessions: list[WorkerSession] = []  # in the order of their making
        self.done = Replayed()
        self._core = self._build(head)
        self._acts: dict[type[AnyEntry], Callable[[Any], None]] = {
            Listed: self._listed,
            Swept: lambda entry: self._core.sessions.end_idle_dropped(),
            Opening: lambda entry: self._of(entry).opening(),
            FrameCame: self._frame_came,
            Ended: lambda entry: self._of(entry).ended(entry.reason),
            Checked: lambda entry: self._of(entry).check(entry.at_s),
            Forgiven: lambda entry: self._of(entry).forgive(entry.seconds),
            Elsewhere: lambda entry: self._of(entry).set_elsewhere(LoadShare(*entry.share)),
            Answered: lambda entry: self._of(entry).answered(entry.predicted_s, entry.taken_s),
            Exposed: lambda entry: self._of(entry).exposed(entry.predicted_s, entry.exposed_s),
            Decoded: lambda entry: self._of(entry).decoded(entry.predicted_s, entry.taken_s),
            Reserved: self._reserved,
            Started: self._started,
            Accepted: self._accepted,
            Cancelled: lambda entry: self._of(entry).cancel_leg(entry.leg_id),
            Settled: lambda entry: self._of(entry).settle_leg(entry.leg_id),
            Failed: self._failed,
            Noted: self._noted,
            Placed: self._placed,
        }

    def take(self, entry: AnyEntry) -> None:
        """Raises RecordingError for an entry that fits nothing before it."""
        self.done.num_entries += 1
        try:
            self._acts[type(entry)](entry)
        except (LookupError, TypeError, ValueError) as error:
            raise RecordingError(
                f"entry {self.done.num_entries}, {type(entry).__name__}: it does not follow from "
                f"the entries before it ({error!r})"
            ) from error

    def check_integrity(self) -> None:
        self._core.sessions.check_integrity()

    def _build(self, head: Head) -> Core:
        parts = Parts(open_stream=self._open_stream)
        try:
            config = RouterConfig(control_address="", **head.config)  # type: ignore[arg-type]
            return build_core(config, self._loop, SilentMetrics(), parts)
        except TypeError as error:
            raise RecordingError(f"the recording's settings: {error}") from error

    def _open_stream(self, address: str, config: RouterConfig, owner: StreamOwner) -> _Still:
        assert isinstance(owner, WorkerSession), "sessions open streams"
        self._sessions.append(owner)
        return _Still()

    def _of(self, entry: Any) -> WorkerSession:
        number: int = entry.worker
        return self._sessions[number]

    def _listed(self, entry: Listed) -> None:
        listed = unpack_snapshot(entry.snapshot)
        self._core.sessions.update(listed.workers, listed.serving.mode)

    def _frame_came(self, entry: FrameCame) -> None:
        self._of(entry).frame_came(unpack_worker_frame(entry.frame))

    def _reserved(self, entry: Reserved) -> None:
        self._of(entry).reserve_leg(
            entry.leg_id,
            compute_tokens=entry.compute_tokens,
            new_tokens=entry.new_tokens,
            num_tokens=entry.num_tokens,
        )

    def _started(self, entry: Started) -> None:
        request = GenerateRequest("", (0,) * entry.num_tokens, _ANY, ())
        self._of(entry).start_leg(StartLeg(entry.leg_id, request), lambda event: None)

    def _accepted(self, entry: Accepted) -> None:
        self._of(entry).accept_leg(entry.leg_id, entry.num_tokens, entry.num_cached_tokens)

    def _failed(self, entry: Failed) -> None:
        self._core.breaker.failed(entry.worker_id, entry.epoch, entry.at_s)

    def _noted(self, entry: Noted) -> None:
        note = PlacementNote(entry.workers, entry.hashes, entry.session, entry.home, {})
        self._core.notes.take(note, entry.age_s, entry.at_s)

    def _placed(self, entry: Placed) -> None:
        terms = RequestTerms(
            ttft_slo_s=entry.ttft_slo_s,
            tpot_slo_s=entry.tpot_slo_s,
            session=entry.session,
            model=entry.model,
        )
        request = GenerateRequest(
            "",
            (0,) * entry.num_prompt_tokens,
            SamplingParams(max_tokens=entry.max_tokens),
            entry.hashes,
            priority=entry.priority,
            terms=terms,
        )
        self._compare(entry, self._place(request, entry))

    def _place(self, request: GenerateRequest, entry: Placed) -> Outcome:
        try:
            placed = self._core.placer.place(
                request, entry.num_sent, frozenset(entry.excluded), entry.waited_s
            )
        except BatonError as error:
            return Outcome(refused=error.message)
        return outcome_of(None if placed is None else placed[0])

    def _compare(self, entry: Placed, replayed: Outcome) -> None:
        done = self.done
        if replayed != entry.outcome:
            found = Difference(done.num_placements, entry.at_s, entry.outcome, replayed)
            done.differences.append(found)
        done.num_placements += 1
        done.num_refused += bool(entry.outcome.refused)
        done.num_without += entry.outcome == Outcome()


def replay(path: Path) -> Replayed:
    """Makes every placement of a recording again and says which ones come out otherwise.

    Raises RecordingError for what is no recording, ValueError for a policy that does not exist.
    """
    return replay_entries(read_recording(path))


def replay_entries(entries: Iterator[AnyEntry]) -> Replayed:
    """As replay, from entries of which the first is the Head."""
    head = next(entries, None)
    if not isinstance(head, Head):
        raise RecordingError("a recording begins with its head; this one is empty")
    loop = EventLoop()  # type: ignore[abstract]  # it has no sockets
    made: list[_Replay] = []

    def follow() -> None:
        """The next entry goes on the agenda when the one before it has been taken."""
        entry = next(entries, None)
        if entry is not None:
            loop.at(max(entry.at_s, loop.now()), take, entry)

    def take(entry: AnyEntry) -> None:
        made[0].take(entry)
        follow()

    def begin() -> None:
        made.append(_Replay(head, loop))
        follow()

    loop.at(head.at_s, begin)
    loop.run()
    made[0].check_integrity()
    return made[0].done
