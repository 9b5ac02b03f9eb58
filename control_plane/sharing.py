"""Keeps one control plane and the state that all of a cluster's control planes share in step."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from control_plane.api.audit import AuditLog
from control_plane.api.decisions import decision_view
from control_plane.api.shapes import AuditEntry, DecisionView
from control_plane.leadership import Leadership, NotLeader
from control_plane.lessons import Lessons
from control_plane.overrides import Overrides
from control_plane.planning import Planning
from control_plane.registry import Registry
from control_plane.state.journal import Journal
from control_plane.state.standing import Standing, decode_standing, merge
from control_plane.state.store import (
    Entry,
    Incoming,
    Kind,
    OlderTerm,
    Outgoing,
    StandingConflict,
    StateStore,
    StoreSilent,
)
from control_plane.state.worker_records import WorkerRecords
from runtime.clock import Clock
from runtime.log import get_logger

_PERIOD_S = 1.0
_CONFLICT_ATTEMPTS = 5
_MAX_UNSENT = 1500
_log = get_logger("control_plane")


@dataclass(frozen=True, slots=True)
class SharedParts:
    """Whose state is shared. wall_s: seconds since 1970."""

    registry: Registry
    overrides: Overrides
    lessons: Lessons
    leadership: Leadership
    audit: AuditLog
    decided: Journal[DecisionView]
    planning: Planning
    wall_s: Callable[[], float]


class SharedState:
    """One exchange a second, and at each hint. While the store is silent this process goes on
    with what it knows, and what it has to tell waits.

    The leader's pause, pin, configuration and lessons count: a change made during silence is
    written when the store answers, also over a store that has lost its data. Whoever is no leader
    takes over what stands there. A leader acts from when it has read the store in its term.
    """

    def __init__(self, store: StateStore, parts: SharedParts, clock: Clock, ttl_s: float) -> None:
        self._store = store
        self._parts = parts
        self._clock = clock
        self._period_s = min(_PERIOD_S, ttl_s / 3)
        self._records = WorkerRecords(parts.registry, clock, ttl_s)
        self._base = Standing()  # as last read or written
        self._version = 0
        self._first_config = parts.planning.config()
        self._number = 0
        self._told_decision = 0
        self._unsent: deque[Entry] = deque(maxlen=_MAX_UNSENT)
        self._read_in: int | None = None  # the token of the term in which the store was read
        self._answered_at_s = clock.now()
        self._silence = ""
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def may_act(self) -> bool:
        """This process leads, and knows what the leader before left."""
        term = self._parts.leadership.term()
        return term.is_me and self._read_in == term.token

    def next_number(self) -> int:
        """Of a decision: above all that are known."""
        self._number = max(self._number, self._parts.decided.highest_id) + 1
        return self._number

    def notes(self) -> tuple[str, ...]:
        """What an operator should know of the store."""
        if not self._silence:
            return ()
        age_s = self._clock.now() - self._answered_at_s
        told = f"the shared state is silent for {age_s:.0f} s ({self._silence})"
        if self._parts.leadership.term().is_me and not self.may_act:
            return (f"{told}: the planner does not act before it has read it",)
        return (f"{told}: this control plane goes on with what it knows",)

    async def start(self) -> None:
        await self._try_round()
        self._task = asyncio.create_task(self._run(), name="shared-state")

    async def stop(self) -> None:
        """Tells what is left to tell."""
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self._silence:
            await self._try_round()
        await self._store.close()

    async def keep(self) -> None:
        """Shares what an operator has just changed; while the store is silent it waits.

        Raises NotLeader where a later leader has written; then its state holds here.
        """
        try:
            await self._round()
        except StoreSilent as error:
            self._fell_silent(error)
        except OlderTerm as error:
            raise NotLeader("", "a later leader has changed the shared state") from error

    async def _run(self) -> None:
        while not self._is_stopping:  # a wait that ends as it is cancelled swallows that
            await self._store.hint(self._period_s)
            await self._try_round()

    async def _try_round(self) -> None:
        try:
            await self._round()
        except StoreSilent as error:
            self._fell_silent(error)
        except (OlderTerm, StandingConflict):
            _log.info("shared state", outcome="another control plane was faster")
        except Exception:  # a task's edge: the next round comes
            _log.exception("a round of the shared state failed")

    async def _round(self) -> None:
        async with self._lock:
            term = self._parts.leadership.term()
            self._write_down(leads_elsewhere=bool(term.other))
            records = self._records.due() if term.is_me else Outgoing()
            entries = tuple(self._unsent)
            outgoing = Outgoing(entries, records.workers, records.gone)
            incoming = await self._exchange(outgoing)
            self._records.written(outgoing)
            for entry in entries:
                if self._unsent and self._unsent[0] is entry:
                    self._unsent.popleft()
            if term.is_me:
                await self._agree(incoming, term.token)
                await self._take_over(term.token)
            else:
                self._adopt(_standing(incoming), incoming.version)

    async def _exchange(self, outgoing: Outgoing) -> Incoming:
        incoming = await self._store.exchange(outgoing)
        self._answered_at_s = self._clock.now()
        if self._silence:
            _log.info("the shared state answers", store=self.name)
        self._silence = ""
        for entry in incoming.entries:
            self._learn(entry)
        return incoming

    async def _agree(self, incoming: Incoming, token: int) -> None:
        """Writes what changed here over what stands there. Raises OlderTerm."""
        for _ in range(_CONFLICT_ATTEMPTS):
            is_lost = incoming.version < self._version
            theirs, mine = self._base if is_lost else _standing(incoming), self._local()
            merged = merge(self._base, mine, theirs)
            if merged == theirs and incoming.version and not is_lost:
                self._adopt(theirs, incoming.version)
                return
            if is_lost:
                self._tell_all_again()
            version = max(incoming.version, self._version) + 1
            content = msgspec.json.encode(merged)
            try:
                await self._store.set_standing(content, incoming.version, version, token)
            except StandingConflict:
                incoming = await self._exchange(Outgoing())
                continue
            self._hold(merge(mine, self._local(), merged))  # what changed meanwhile is written next
            self._base, self._version = merged, version
            return

    async def _take_over(self, token: int) -> None:
        """Once a term: what the leader before knew of the workers."""
        if self._read_in == token:
            return
        restored = self._parts.registry.restore(await self._store.workers())
        self._read_in = token
        _log.info("shared state read", store=self.name, token=token, workers=restored)

    def _local(self) -> Standing:
        """As it stands in this process."""
        overrides = self._parts.overrides
        config, known = self._parts.planning.config(), self._base.config
        return Standing(
            overrides.paused_by,
            overrides.pin_at(self._parts.wall_s()),
            known if config == (known or self._first_config) else config,
            self._parts.lessons.held,
        )

    def _adopt(self, standing: Standing, version: int) -> None:
        self._hold(standing)
        self._base, self._version = standing, version

    def _hold(self, standing: Standing) -> None:
        """In this process."""
        if standing != self._local():
            _log.info("shared state changed", paused_by=standing.paused_by, pin=str(standing.pin))
            self._parts.overrides.paused_by = standing.paused_by
            self._parts.overrides.set_pin(standing.pin)
            self._parts.planning.configure(standing.config or self._first_config)
            self._parts.lessons.held = standing.learned

    def _write_down(self, leads_elsewhere: bool) -> None:
        """What this process has decided and audited; a follower's decisions are nobody's."""
        for recorded in self._parts.planning.decisions():
            if recorded.number <= self._told_decision:
                continue
            self._told_decision = recorded.number
            view = decision_view(recorded)
            if not leads_elsewhere and self._parts.decided.add(view):
                self._unsent.append(Entry(Kind.DECISION, msgspec.json.encode(view)))
        for entry in self._parts.audit.take_untold():
            self._unsent.append(Entry(Kind.AUDIT, msgspec.json.encode(entry)))

    def _learn(self, entry: Entry) -> None:
        try:
            if entry.kind is Kind.DECISION:
                self._parts.decided.add(msgspec.json.decode(entry.content, type=DecisionView))
            else:
                self._parts.audit.learn(msgspec.json.decode(entry.content, type=AuditEntry))
        except msgspec.DecodeError as error:
            _log.warning("an entry cannot be read", kind=entry.kind.value, reason=str(error))

    def _tell_all_again(self) -> None:
        """The store has lost its data."""
        decided = self._parts.decided.newest(_MAX_UNSENT)[::-1]
        audited = self._parts.audit.newest(_MAX_UNSENT)[::-1]
        self._unsent.clear()
        self._unsent += [Entry(Kind.DECISION, msgspec.json.encode(view)) for view in decided]
        self._unsent += [Entry(Kind.AUDIT, msgspec.json.encode(entry)) for entry in audited]
        self._records.forget()
        _log.warning("the shared state was lost and is written again", store=self.name)

    def _fell_silent(self, error: StoreSilent) -> None:
        if not self._silence:
            _log.warning("the shared state is silent", store=self.name, reason=str(error))
        self._silence = str(error)


def _standing(incoming: Incoming) -> Standing:
    """What stands there; what this version cannot read counts as nothing."""
    standing, problem = decode_standing(incoming.standing)
    if problem:
        _log.warning("the shared state cannot be read", reason=problem)
    return standing
