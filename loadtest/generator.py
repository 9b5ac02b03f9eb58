"""Sends a share of the workload at its times, whatever the server does: open loop."""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loadtest.alarm import Alarm
from loadtest.answer_stream import AnswerStream
from loadtest.body import BodyMaker, Dialogue
from loadtest.connections import Connections, Exchange
from loadtest.plan import Conversation, Turn
from loadtest.record import RequestRecord
from loadtest.target import Target
from runtime.clock import Clock

_SPARE_S = 0.001  # a wait that is long enough to make a body in
_READY_BYTES = 32 << 20  # of bodies that are made before their time

OnRecord = Callable[[RequestRecord], None]


@dataclass(slots=True)
class _Course:
    """A conversation under way."""

    conversation: Conversation
    dialogue: Dialogue
    turn: int = 0
    body: bytes = b""

    @property
    def current(self) -> Turn:
        return self.conversation.turns[self.turn]

    @property
    def has_more(self) -> bool:
        return self.turn + 1 < len(self.conversation.turns)


@dataclass(slots=True, eq=False)
class _Sent:
    """A request under way, with what its record needs."""

    course: _Course
    intended_s: float
    sent_s: float
    answer: AnswerStream
    timer: asyncio.TimerHandle | None = None
    exchange: Exchange | None = None


class Generator:
    """Owns the requests under way. Every one of them ends in exactly one record. run() once.

    Bodies are made while nothing is due, up to 32 MiB ahead, since encoding a long prompt takes
    as long as an answer of a fast server.
    """

    def __init__(
        self,
        conversations: Iterable[Conversation],
        maker: BodyMaker,
        target: Target,
        clock: Clock,
        on_record: OnRecord,
        *,
        timeout_s: float,
    ) -> None:
        self._maker = maker
        self._head = target.head("POST", maker.options.style.path)
        self._now = clock.now
        self._connections = Connections(target, clock.now)
        self._on_record = on_record
        self._timeout_s = timeout_s
        self._planned = deque(conversations)
        self._prepared: deque[_Course] = deque()
        self._num_ready_bytes = 0
        self._later: list[tuple[float, int, _Course]] = []  # turns after the first, a heap
        self._alarm: Alarm  # while run() goes on
        self._sent: set[_Sent] = set()
        self._start = 0.0
        self._done = asyncio.Event()
        self._is_stopped = False

    def prepare(self) -> None:
        """Makes bodies ahead of the start, as many as fit."""
        while self._planned and self._num_ready_bytes < _READY_BYTES:
            self._prepare_one()

    async def run(self, start: float) -> None:
        """Sends everything; returns when the last answer is in or stop() was called.

        start: the clock's time that stands for zero in the workload.
        """
        self._start = start
        self._alarm = Alarm(self._tick)
        self._connections.on_due = self._tick
        self._tick()
        try:
            await self._done.wait()
        finally:
            self._alarm.close()
            await self._connections.close()

    @property
    def num_connections(self) -> int:
        return self._connections.num_opened

    def stop(self) -> None:
        """Sends nothing more and ends what is under way; its records say so."""
        self._is_stopped = True
        self._planned.clear()
        self._prepared.clear()
        self._later.clear()
        for sent in tuple(self._sent):
            if sent.exchange is not None:
                self._connections.abort(sent.exchange, STOPPED)
        self._done.set()

    def _tick(self) -> None:
        """Sends what is due, uses spare time to make a body, and sets the next alarm."""
        if self._is_stopped:
            return
        while (due_s := self._next_due_s()) is not None:
            wait_s = due_s - (self._now() - self._start)
            if wait_s > 0:
                break
            self._send_next(due_s)
        self._connections.due = math.inf if due_s is None else self._start + due_s
        if due_s is None:
            self._finish_if_idle()
        elif wait_s > _SPARE_S and self._planned and self._num_ready_bytes < _READY_BYTES:
            self._prepare_one()
            self._alarm.set(0.0)
        else:
            self._alarm.set(wait_s)

    def _next_due_s(self) -> float | None:
        if not self._prepared and self._planned:
            self._prepare_one()
        first = self._prepared[0].conversation.at_s if self._prepared else None
        later = self._later[0][0] if self._later else None
        if first is None or later is None:
            return later if first is None else first
        return min(first, later)

    def _send_next(self, due_s: float) -> None:
        if self._later and self._later[0][0] == due_s:
            course = heapq.heappop(self._later)[2]
        else:
            course = self._prepared.popleft()
        self._num_ready_bytes -= len(course.body)
        body, course.body = course.body, b""
        answer = AnswerStream(keeps_text=course.has_more)
        sent = _Sent(course, due_s, self._now() - self._start, answer)
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        exchange = Exchange(request, answer, lambda ended: self._ended(sent, ended))
        sent.exchange = exchange
        self._sent.add(sent)
        sent.timer = asyncio.get_running_loop().call_later(
            self._timeout_s, self._connections.abort, exchange, f"no end in {self._timeout_s:g} s"
        )
        self._connections.start(exchange)

    def _ended(self, sent: _Sent, exchange: Exchange) -> None:
        assert sent.timer is not None
        sent.timer.cancel()
        self._sent.discard(sent)
        exchange.request = b""
        record = _record(sent, exchange, self._start)
        self._on_record(record)
        course = sent.course
        if course.has_more and record.is_ok:
            text = "".join(sent.answer.text)
            course.dialogue.answered(record.index, text, record.num_output)
            self._plan_turn(course, record.end_s)
        self._finish_if_idle()

    def _plan_turn(self, course: _Course, ended_s: float) -> None:
        course.turn += 1
        course.body = course.dialogue.ask(course.current)
        self._num_ready_bytes += len(course.body)
        due_s = ended_s + course.current.think_s
        index = course.conversation.first_index + course.turn
        heapq.heappush(self._later, (due_s, index, course))
        self._alarm.set(0.0)

    def _prepare_one(self) -> None:
        conversation = self._planned.popleft()
        course = _Course(conversation, self._maker.open())
        course.body = course.dialogue.ask(course.current)
        self._num_ready_bytes += len(course.body)
        self._prepared.append(course)

    def _finish_if_idle(self) -> None:
        if not (self._planned or self._prepared or self._later or self._sent):
            self._done.set()


STOPPED = "stopped by the user"


def _record(sent: _Sent, exchange: Exchange, start: float) -> RequestRecord:
    assert exchange.ended is not None
    course, answer = sent.course, sent.answer
    return RequestRecord(
        index=course.conversation.first_index + course.turn,
        class_name=course.conversation.class_name,
        conversation=course.conversation.first_index,
        turn=course.turn,
        intended_s=sent.intended_s,
        sent_s=sent.sent_s,
        end_s=exchange.ended - start,
        first_s=None if answer.first is None else answer.first - start,
        gaps=answer.gaps.tobytes(),
        num_planned_input=course.current.num_input,
        num_planned_output=course.current.num_output,
        num_input=answer.num_input or course.current.num_input,
        num_output=answer.num_output or answer.num_events,
        num_cached=answer.cached,
        status=answer.status,
        finish_reason=answer.finish_reason,
        error=answer.error,
        stages=answer.baton,
    )
