"""Takes requests whose KV is computed elsewhere: reserves room, pulls, hands them to the engine.

waiting --room--> pulling --arrived or failed--> in the engine's hands
   |                 |    \\--waits for its tokens--> paused --go_on--> in the engine's hands
   +----cancel-------+-----------------------------------+--> gone

The blocks of a cancelled pull are freed once its link is fenced.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.engine import Engine
from engine.kv_path import KVPath
from engine.sequence import EngineRequest, Reservation
from kv_transfer.importer import Importer
from kv_transfer.pull import PullResult
from wire.errors import BatonError, ErrorCode
from wire.kv import KVHandle


@dataclass(slots=True)
class _Entry:
    """A request on its way in. told: the tokens behind those it came with, once they are known.

    is_held: it waits for room, and the source keeps its blocks for longer than the lease says.
    """

    request: EngineRequest
    handle: KVHandle
    waits: bool
    told: tuple[int, ...] | None = None
    is_held: bool = False


@dataclass(slots=True)
class _Pull:
    entry: _Entry
    num_cached_tokens: int
    block_ids: tuple[int, ...]  # that the pull writes
    is_cancelled: bool = False

    @property
    def seq_id(self) -> int:
        return self.entry.request.seq_id


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that left the queue: its pull runs, or the engine cannot ever take it."""

    seq_id: int
    num_cached_tokens: int
    error: BatonError | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A pull that ended: the sequence runs, with the tokens that came along, or is paused."""

    seq_id: int
    result: PullResult


class Intake:
    """The decode phase's side of the fabric; called from the engine's thread only.

    A request waits here, not at its source, while there is no room: decode owns its memory.
    """

    def __init__(
        self,
        engine: Engine,
        importer: Importer,
        block_size: int,
        on_pulled: Callable[[PullResult], None],
        path: KVPath | None = None,
    ) -> None:
        """`on_pulled` is called from a fabric thread and has to lead to `pulled` here.

        path: of an engine whose pool is a device's; None where it lies in host memory.
        """
        self._engine = engine
        self._importer = importer
        self._block_size = block_size
        self._on_pulled = on_pulled
        self._path = path
        self._waiting: deque[_Entry] = deque()
        self._pulls: dict[int, _Pull] = {}  # by ticket
        self._paused: dict[int, int] = {}  # by seq_id: tokens whose KV is here

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        return len(self._waiting) + len(self._pulls) + len(self._paused)

    def add(self, request: EngineRequest, handle: KVHandle, *, waits: bool = False) -> None:
        """waits: the sequence does not run before `go_on`."""
        self._waiting.append(_Entry(request, handle, waits))

    def is_waited_for(self, seq_id: int) -> bool:
        """The sequence is here and `go_on` was not called for it."""
        return seq_id in self._paused or any(
            entry.request.seq_id == seq_id and entry.waits and entry.told is None
            for entry in self._entries()
        )

    def go_on(self, seq_id: int, tokens: tuple[int, ...]) -> None:
        """Lets a sequence that waits run, behind further output tokens; those that are on their
        way run when they arrive."""
        if seq_id in self._paused:
            self._engine.activate(seq_id, self._paused.pop(seq_id), tokens)
            return
        for entry in self._entries():
            if entry.request.seq_id == seq_id:
                entry.told = tokens

    def begin_pulls(self) -> list[Begun]:
        """Starts every pull that there is room for, in the order of arrival. Those that have to
        wait keep their leases meanwhile."""
        begun = []
        while self._waiting:
            entry = self._waiting[0]
            request = entry.request
            try:
                _check_fits(request, entry.handle)
                reservation = self._engine.reserve(request)
            except BatonError as error:
                self._end_hold(entry)
                begun.append(Begun(request.seq_id, 0, error))
            else:
                if reservation is None:
                    break
                self._pull(entry, reservation)
                begun.append(Begun(request.seq_id, reservation.num_cached_tokens))
            self._waiting.popleft()
        self._hold_rest()
        return begun

    def _hold_rest(self) -> None:
        """New ones stand at the end of the queue."""
        for entry in reversed(self._waiting):
            if entry.is_held:
                return
            entry.is_held = True
            self._importer.hold(entry.handle)

    def _end_hold(self, entry: _Entry) -> None:
        """A pull takes its handle over by itself."""
        if entry.is_held:
            self._importer.let_go(entry.handle)

    def _pull(self, entry: _Entry, reservation: Reservation) -> None:
        handle, num_cached = entry.handle, reservation.num_cached_tokens
        block_ids = reservation.block_ids[: -(-handle.num_tokens // self._block_size)]
        num_skipped = min(num_cached // self._block_size, len(block_ids))
        if self._path is not None:
            self._path.before_pull()
        ticket = self._importer.pull(handle, block_ids, num_skipped, self._on_pulled)
        self._pulls[ticket] = _Pull(entry, num_cached, block_ids[num_skipped:])

    def pulled(self, result: PullResult) -> Arrival | None:
        """A pull ended, well or not; None when its request was cancelled meanwhile."""
        pull = self._pulls.pop(result.ticket)
        if pull.is_cancelled:
            self._engine.cancel(pull.seq_id)
            return None
        if result.ok and self._path is not None:
            self._path.load(pull.block_ids)
        num_ready = result.num_ready_tokens if result.ok else pull.num_cached_tokens
        if not pull.entry.waits:
            output_tokens = result.output_tokens if result.ok else ()
            self._engine.activate(pull.seq_id, num_ready, output_tokens)
        elif pull.entry.told is not None:
            self._engine.activate(pull.seq_id, num_ready, pull.entry.told)
        else:
            self._paused[pull.seq_id] = num_ready
        return Arrival(pull.seq_id, result)

    def cancel(self, seq_id: int) -> bool:
        """True when the sequence was here: it is gone, or will be once its link is fenced."""
        if self._paused.pop(seq_id, None) is not None:
            self._engine.cancel(seq_id)
            return True
        for entry in self._waiting:
            if entry.request.seq_id == seq_id:
                self._waiting.remove(entry)
                self._end_hold(entry)
                return True
        for ticket, pull in self._pulls.items():
            if pull.seq_id == seq_id:
                pull.is_cancelled = True
                self._importer.cancel(ticket)
                return True
        return False

    def _entries(self) -> Iterator[_Entry]:
        yield from self._waiting
        yield from (pull.entry for pull in self._pulls.values() if not pull.is_cancelled)


def _check_fits(request: EngineRequest, handle: KVHandle) -> None:
    num_known = len(request.prompt_tokens) + len(request.output_tokens)
    if not 0 < handle.num_tokens <= num_known:
        raise BatonError(
            ErrorCode.INVALID_REQUEST,
            f"the KV handle covers {handle.num_tokens} tokens, the request has {num_known}",
        )
