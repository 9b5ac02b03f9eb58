"""Requests into the router and their records out of it: what of each one its client sees."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.record import RequestRecord, StageTimes
from router.output import OutputDelta, RequestTrace
from router.router import Router
from simulate.coalescing import Pauses, event_times
from simulate.event_loop import EventLoop
from simulate.leg import Leg
from simulate.leg_book import LegBook
from simulate.spec import Overheads
from wire.errors import BatonError, ErrorCode
from wire.messages import GenerateRequest

_STATUS = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: 400,
    ErrorCode.OVERLOADED: 429,
    ErrorCode.UNAVAILABLE: 503,
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the workload, as the gateway gets it at at_s."""

    index: int
    at_s: float
    request: GenerateRequest  # of whose tokens only the number counts
    class_name: str = ""
    conversation: int = 0
    turn: int = 0
    keys: tuple[int, ...] = ()  # of its whole units, and of its answer's where somebody asks for it

    @property
    def num_input(self) -> int:
        return len(self.request.prompt_tokens)

    @property
    def num_output(self) -> int:
        return self.request.sampling.max_tokens


class SimulatedGateway:
    """Hands requests to the router and follows their answers.

    Every request ends in one record, through on_end. max_tokens: prompt and answer that a request
    may have together, else it is refused. pause_s: between two pieces of an answer that comes fast.
    """

    def __init__(
        self,
        loop: EventLoop,
        router: Router,
        legs: LegBook,
        overheads: Overheads,
        on_end: Callable[[Arrival, RequestRecord], None],
        max_tokens: int,
        pause_s: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._router = router
        self._legs = legs
        self._overheads = overheads
        self._on_end = on_end
        self._max_tokens = max_tokens
        self._pause_s = pause_s
        self._pauses = Pauses(pause_s())
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_under_way = 0

    def arrive(self, arrival: Arrival) -> None:
        self.num_under_way += 1
        num_tokens = arrival.num_input + arrival.num_output
        if num_tokens > self._max_tokens:
            message = f"{num_tokens} tokens of prompt and answer, the cluster holds"
            self._loop.after(
                self._overheads.request_s, self._refuse, arrival, f"{message} {self._max_tokens}"
            )
            return
        read_s = self._overheads.request_s + self._overheads.prompt_token_s * arrival.num_input
        self._loop.after(read_s, self._begin, arrival)

    def _begin(self, arrival: Arrival) -> None:
        task = self._loop.create_task(self._serve(arrival))
        self._loop.call_soon(self._note_pause)  # by then the task waits for its turn, or runs
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.result()

    async def _serve(self, arrival: Arrival) -> None:
        self._legs.expect(arrival.request.request_id, arrival.keys)
        num_tokens, last, error = 0, OutputDelta(()), None
        try:
            async for last in self._router.generate(arrival.request):
                num_tokens += len(last.tokens)
        except BatonError as refused:
            error = refused
        self._note_pause()
        legs = self._legs.take(arrival.request.request_id)
        reply_s = self._overheads.reply_s
        times_s = _token_times(legs, num_tokens) + self._overheads.hop_s
        if self._overheads.coalesce_s:
            times_s = event_times(times_s, self._pauses)
        self.num_under_way -= 1
        now_s = self._loop.now() + reply_s
        self._on_end(arrival, _record(arrival, times_s + reply_s, num_tokens, now_s, last, error))

    def _note_pause(self) -> None:
        self._pauses.note(self._loop.now(), self._pause_s())

    def _refuse(self, arrival: Arrival, error: str) -> None:
        self.num_under_way -= 1
        refused = BatonError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, error)
        now_s = self._loop.now()
        self._on_end(arrival, _record(arrival, np.empty(0), 0, now_s, OutputDelta(()), refused))


def _token_times(legs: Sequence[Leg], num_tokens: int) -> npt.NDArray[np.float64]:
    """When each token left a worker: the first of its copies counts, and none overtakes.

    [num_tokens]
    """
    times = np.full(num_tokens, np.inf)
    for leg in legs:
        skipped = leg.arrived_s > 0  # a pulled leg's first token is its source's
        first = leg.first_index + skipped
        known = leg.known_times()[: max(0, leg.num_told - skipped)][: max(0, num_tokens - first)]
        part = times[first : first + len(known)]
        np.minimum(part, known, out=part)
    return np.maximum.accumulate(times)


def _record(
    arrival: Arrival,
    events_s: npt.NDArray[np.float64],
    num_tokens: int,
    now_s: float,
    last: OutputDelta,
    error: BatonError | None,
) -> RequestRecord:
    return RequestRecord(
        index=arrival.index,
        class_name=arrival.class_name,
        conversation=arrival.conversation,
        turn=arrival.turn,
        intended_s=arrival.at_s,
        sent_s=arrival.at_s,
        end_s=now_s if error is not None or not num_tokens else float(events_s[-1]),
        first_s=float(events_s[0]) if num_tokens else None,
        gaps=np.diff(events_s).astype(np.float32).tobytes(),
        num_planned_input=arrival.num_input,
        num_planned_output=arrival.num_output,
        num_input=arrival.num_input,
        num_output=num_tokens,
        num_cached=last.num_cached_tokens,
        status=200 if error is None else _STATUS.get(error.code, 500),
        finish_reason="" if last.finish_reason is None else last.finish_reason.value,
        error="" if error is None else error.message,
        stages=StageTimes() if last.trace is None else _stages(last.trace),
    )


def _stages(trace: RequestTrace) -> StageTimes:
    is_remote = trace.kind == "remote" and not trace.transfer_failure
    return StageTimes(
        kind=trace.kind,
        prefill_worker=trace.prefill_worker,
        decode_worker=trace.decode_worker,
        queue_s=trace.queue_s,
        prefill_s=trace.prefill_s,
        transfer_s=trace.transfer_s if is_remote else None,
        exposed_s=trace.exposed_s if is_remote else None,
    )
