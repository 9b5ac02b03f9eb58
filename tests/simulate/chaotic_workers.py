"""Workers that say what workers say, whether or not it is true: only a session's order is kept."""

import asyncio
from dataclasses import dataclass, field, replace
from random import Random

from router.stream import StreamOwner
from wire.cluster import WorkerInfo
from wire.errors import ErrorCode
from wire.kv import FabricAddress, KVHandle
from wire.messages import (
    BlockEvent,
    BlockSnapshot,
    CancelLeg,
    ClientFrame,
    FinishReason,
    HostLoad,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegMove,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    StartLeg,
    StepTotals,
    WorkerFrame,
    WorkerReport,
)

HANDLE = KVHandle(bytes(16), "x", 1, FabricAddress("127.0.0.1", 1), 64, 30.0)
FAULTS = (ErrorCode.INTERNAL, ErrorCode.TRANSFER_FAILED, ErrorCode.OVERLOADED)


def any_prompt(rng: Random) -> tuple[int, tuple[int, ...]]:
    """Its length, and its blocks: one of a few roots, from which it may turn away."""
    root, twig, depth = rng.randrange(4), rng.randrange(3), rng.choice((0, 1, 2, 5, 30))
    turn = rng.randint(0, depth)
    first, other = 1 + 1000 * root, 501 + 1000 * root + 100 * twig
    hashes = tuple(i + (other if i >= turn else first) for i in range(depth))
    return 16 * depth + rng.randint(1, 15), hashes


@dataclass
class Leg:
    """How far a leg has come at its worker."""

    start: StartLeg
    index: int
    is_accepted: bool = False
    is_published: bool = False
    is_pulled: bool = False

    @property
    def num_left(self) -> int:
        return self.start.request.sampling.max_tokens - self.index


@dataclass
class Process:
    """One life of a worker. Legs live as long as their session."""

    info: WorkerInfo
    rng: Random
    report: WorkerReport
    is_dead: bool = False
    is_frozen: bool = False
    hangs: bool = False  # it reports, and makes no step
    spoke_s: float = 0.0
    stream: "Stream | None" = None
    legs: dict[int, Leg] = field(default_factory=dict)
    _sequence_number: int = 0
    _blocks: dict[int, None] = field(default_factory=dict)
    _on_host: dict[int, None] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Its session is open."""
        return self.stream is not None and self.stream.is_open and not self.is_frozen

    def breaks(self, reason: str) -> None:
        assert self.stream is not None
        self.stream.end(reason)

    def _tell(self, frame: WorkerFrame) -> None:
        assert self.stream is not None
        self.spoke_s = asyncio.get_running_loop().time()
        self.stream.owner.frame_came(frame)

    # --- reports ------------------------------------------------------------------------------

    def tell_report(self) -> None:
        rng, report = self.rng, self.report
        if not self.hangs and rng.random() < 0.9:
            steps = rng.randint(1, 20)
            report = replace(
                report,
                num_steps=report.num_steps + steps,
                totals=self._worked(steps),
                progress=report.progress + steps,
            )
        self.report = replace(
            report,
            has_work=self.hangs or rng.random() < 0.7,
            num_running=rng.choice((0, 1, 3, 20)),
            num_waiting=rng.choice((0, 0, 2)),
            waiting_tokens=rng.choice((0, 0, 300, 5000)),
            num_free_blocks=rng.choice((2000, 1500, 3)),
            context_tokens=rng.choice((0, 500, 20_000)),
            step_s=rng.uniform(0, 0.05),
            host=HostLoad(0, 0, block_s=rng.choice((0.0, 1e-3))),
        )
        self._tell(WorkerFrame(report=self.report))

    def _worked(self, steps: int) -> StepTotals:
        """Sums that have grown by what these steps did: decoding, prefilling or both."""
        rng, old = self.rng, self.report.totals
        is_decoding = rng.random() < (0.2 if self.report.role is Role.PREFILL else 0.9)
        decoded = steps * rng.randint(1, 16) if is_decoding else 0
        context = decoded * rng.randint(50, 1000)
        prefills = rng.randint(1, steps) if not decoded or rng.random() < 0.2 else 0
        tokens = prefills * rng.randint(10, 800)
        pairs = tokens * rng.randint(10, 1000)
        taken_s = 0.004 * steps + 2e-4 * decoded + 2e-7 * context
        taken_s += 1e-3 * prefills + 5e-5 * tokens + 1e-9 * pairs
        return StepTotals(
            old.num_steps + steps,
            old.num_prefill_steps + prefills,
            old.step_s + taken_s * rng.uniform(0.5, 2.0),
            old.num_decode_tokens + decoded,
            old.num_context_tokens + context,
            old.num_prefill_tokens + tokens,
            old.num_prefill_pairs + pairs,
        )

    # --- blocks -------------------------------------------------------------------------------

    def tell_blocks(self) -> None:
        if self.rng.random() < 0.4:
            stored, on_host = tuple(self._blocks), tuple(self._on_host)
            snapshot = BlockSnapshot(self._sequence_number, stored, on_host)
            self._tell(WorkerFrame(snapshot=snapshot))
        else:
            self._tell(WorkerFrame(block_events=(self._next_blocks(),)))

    def _next_blocks(self) -> BlockEvent:
        """The oldest leave, leaves before their roots; now and then a number is left out."""
        rng = self.rng
        self._sequence_number += 1 + (rng.random() < 0.1)
        gone = tuple(self._blocks)[: rng.choice((0, 0, 3, 8))]
        off_host = tuple(self._on_host)[: rng.randint(0, 3)]
        stored = any_prompt(rng)[1]
        to_host = gone if rng.random() < 0.5 else ()
        for block in gone:
            del self._blocks[block]
        for block in off_host:
            del self._on_host[block]
        self._on_host.update(dict.fromkeys(to_host))
        for block in reversed(stored):
            self._on_host.pop(block, None)
            self._blocks.pop(block, None)
            self._blocks[block] = None
        to_host = tuple(block for block in to_host if block in self._on_host)
        return BlockEvent(self._sequence_number, stored, gone, to_host, off_host)

    # --- legs ---------------------------------------------------------------------------------

    def tell_legs(self) -> None:
        """Some of them go on as legs do, or fail, or want to move."""
        rng, events = self.rng, list[LegEvent]()
        for leg_id in rng.sample(sorted(self.legs), min(len(self.legs), rng.randint(1, 4))):
            events += self._next_events(leg_id, self.legs[leg_id])
        report = self.report if rng.random() < 0.3 else None
        self._tell(WorkerFrame(events=tuple(events), report=report))

    def _next_events(self, leg_id: int, leg: Leg) -> list[LegEvent]:
        rng, start = self.rng, leg.start
        if rng.random() < 0.01:
            del self.legs[leg_id]
            return [LegFailed(leg_id, rng.choice(FAULTS), "it went wrong")]
        if rng.random() < 0.02:
            return [LegMove(leg_id, "drains", rng.random() < 0.5)]
        if not leg.is_accepted:
            leg.is_accepted = True
            return [LegAccepted(leg_id, rng.choice((0, 16, 160)))]
        if (start.prefill_only or start.share) and not leg.is_published:
            leg.is_published = True
            return [LegPublished(leg_id, HANDLE)]
        if start.handle is not None and not leg.is_pulled:
            leg.is_pulled = True
            return [self._transferred(leg_id)]
        return self._tokens(leg_id, leg)

    def _transferred(self, leg_id: int) -> LegEvent:
        rng = self.rng
        failure = "the link broke" if rng.random() < 0.1 else ""
        taken_s, num_bytes = 10 ** rng.uniform(-4, -1), rng.randint(1000, 10**7)
        return LegTransferred(leg_id, num_bytes, taken_s, taken_s * rng.random(), "shm", failure)

    def _tokens(self, leg_id: int, leg: Leg) -> list[LegEvent]:
        start = leg.start
        if start.share:
            del self.legs[leg_id]
            return [LegFinished(leg_id, FinishReason.PREFILLED)]
        is_first = start.prefill_only and leg.num_left > 1
        num_more = 1 if is_first else min(leg.num_left, self.rng.choice((1, 1, 3, 40)))
        told = LegTokens(leg_id, leg.index, (7,) * num_more, device_s=0.1)
        leg.index += num_more
        if leg.num_left and not is_first:
            return [told]
        del self.legs[leg_id]
        reason = FinishReason.PREFILLED if is_first else FinishReason.LENGTH
        return [told, LegFinished(leg_id, reason, 16, 0.01, 0.02)]


class Stream:
    """The router's session to a process: opened again when it ends, as the live one is."""

    def __init__(self, process: Process, owner: StreamOwner) -> None:
        self.owner = owner
        self.is_open = False
        self._process = process
        self._is_closed = False
        process.stream = self

    def open(self) -> None:
        asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        if self._is_closed:
            return
        self.owner.opening()
        self.is_open = True
        if self._process.is_dead:
            self.end("the connection was refused")

    def send(self, frame: ClientFrame) -> None:
        if not self.is_open:
            return
        if isinstance(frame, StartLeg):
            self._process.legs[frame.leg_id] = Leg(frame, len(frame.output_tokens))
        elif isinstance(frame, CancelLeg):
            self._process.legs.pop(frame.leg_id, None)

    def works(self) -> None: ...

    def break_off(self) -> None:
        asyncio.get_running_loop().call_soon(self.end, "the router gave it up")

    def end(self, reason: str) -> None:
        self._process.legs.clear()
        if self.is_open:
            self.is_open = False
            self.owner.ended(reason)
            asyncio.get_running_loop().call_later(1.0, self._begin)

    def close(self) -> None:
        self._is_closed = True
        self.is_open = False

    async def wait_closed(self) -> None: ...
