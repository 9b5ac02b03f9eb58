"""Takes requests whose KV is computed elsewhere: reserves room, pulls, hands them to the engine.

waiting --room--> pulling --arrived or failed--> in the engine's hands
   |                 |
   +----cancel-------+--> gone (a pull's blocks are freed once its link is fenced)
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.engine import Engine
from engine.host_mirror import HostMirror
from engine.sequence import EngineRequest, Reservation
from kv_transfer.importer import Importer
from kv_transfer.pull import PullResult
from wire.errors import BatonError, ErrorCode
from wire.kv import KVHandle


@dataclass(slots=True)
class _Pull:
    seq_id: int
    num_cached_tokens: int
    block_ids: tuple[int, ...]  # that the pull writes
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that left the queue: its pull runs, or the engine cannot ever take it."""

    seq_id: int
    num_cached_tokens: int
    error: BatonError | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A pull that ended: the sequence runs, with the tokens that came along."""

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
        mirror: HostMirror | None = None,
    ) -> None:
        """`on_pulled` is called from a fabric thread and has to lead to `pulled` here.

        mirror: where pulls arrive in a host pool and have to be copied to the device.
        """
        self._engine = engine
        self._importer = importer
        self._block_size = block_size
        self._on_pulled = on_pulled
        self._mirror = mirror
        self._waiting: deque[tuple[EngineRequest, KVHandle]] = deque()
        self._pulls: dict[int, _Pull] = {}  # by ticket

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        return len(self._waiting) + len(self._pulls)

    def add(self, request: EngineRequest, handle: KVHandle) -> None:
        self._waiting.append((request, handle))

    def begin_pulls(self) -> list[Begun]:
        """Starts every pull that there is room for, in the order of arrival."""
        begun = []
        while self._waiting:
            request, handle = self._waiting[0]
            try:
                _check_fits(request, handle)
                reservation = self._engine.reserve(request)
            except BatonError as error:
                begun.append(Begun(request.seq_id, 0, error))
            else:
                if reservation is None:
                    break
                self._pull(handle, reservation)
                begun.append(Begun(request.seq_id, reservation.num_cached_tokens))
            self._waiting.popleft()
        return begun

    def _pull(self, handle: KVHandle, reservation: Reservation) -> None:
        num_cached = reservation.num_cached_tokens
        num_skipped = num_cached // self._block_size
        block_ids = reservation.block_ids[: -(-handle.num_tokens // self._block_size)]
        ticket = self._importer.pull(handle, block_ids, num_skipped, self._on_pulled)
        self._pulls[ticket] = _Pull(reservation.seq_id, num_cached, block_ids[num_skipped:])

    def pulled(self, result: PullResult) -> Arrival | None:
        """A pull ended, well or not; None when its request was cancelled meanwhile."""
        pull = self._pulls.pop(result.ticket)
        if pull.is_cancelled:
            self._engine.cancel(pull.seq_id)
            return None
        if result.ok:
            if self._mirror is not None:
                self._mirror.load(pull.block_ids)
            self._engine.activate(pull.seq_id, result.num_ready_tokens, result.output_tokens)
        else:
            self._engine.activate(pull.seq_id, pull.num_cached_tokens)
        return Arrival(pull.seq_id, result)

    def cancel(self, seq_id: int) -> bool:
        """True when the sequence was here: it is gone, or will be once its link is fenced."""
        for entry in self._waiting:
            if entry[0].seq_id == seq_id:
                self._waiting.remove(entry)
                return True
        for ticket, pull in self._pulls.items():
            if pull.seq_id == seq_id:
                pull.is_cancelled = True
                self._importer.cancel(ticket)
                return True
        return False


def _check_fits(request: EngineRequest, handle: KVHandle) -> None:
    num_known = len(request.prompt_tokens) + len(request.output_tokens)
    if not 0 < handle.num_tokens <= num_known:
        raise BatonError(
            ErrorCode.INVALID_REQUEST,
            f"the KV handle covers {handle.num_tokens} tokens, the request has {num_known}",
        )
