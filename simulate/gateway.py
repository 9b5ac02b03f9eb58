"""The router's relay in virtual time: legs, and what of each request reaches its client."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

from loadtest.record import RequestRecord, StageTimes
from router.placement import PlacementKind
from router.placer import Placer
from simulate.cluster import SimulatedCluster, SimulatedSession
from simulate.event_loop import EventLoop
from simulate.leg import Leg
from simulate.spec import Overheads
from wire.messages import BlockEvent, GenerateRequest

_WORKER_WAIT_S = 15.0  # RouterConfig.worker_wait_s
_WAIT_STEP_S = 0.05


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the workload, as the gateway gets it at at_s."""

    index: int
    at_s: float
    request: GenerateRequest  # of whose tokens only the number counts
    class_name: str = ""
    conversation: int = 0
    turn: int = 0

    @property
    def num_input(self) -> int:
        return len(self.request.prompt_tokens)

    @property
    def num_output(self) -> int:
        return self.request.sampling.max_tokens


@dataclass(slots=True, eq=False)
class _Answer:
    arrival: Arrival
    kind: PlacementKind
    decode: SimulatedSession
    decode_leg: Leg
    prefill: SimulatedSession | None = None
    prefill_leg: Leg | None = None
    num_cached: int = 0


class SimulatedGateway:
    """Places with the real placer and follows the legs as `router.attempt` does.

    Every request ends in one record, through on_end. max_tokens: prompt and answer that a request
    may have together, else it is refused.
    """

    def __init__(
        self,
        loop: EventLoop,
        placer: Placer,
        cluster: SimulatedCluster,
        overheads: Overheads,
        on_end: Callable[[Arrival, RequestRecord], None],
        max_tokens: int,
    ) -> None:
        self._loop = loop
        self._placer = placer
        self._cluster = cluster
        self._overheads = overheads
        self._on_end = on_end
        self._max_tokens = max_tokens
        self._leg_ids = count(1)
        self._answers: dict[int, _Answer] = {}  # by leg id, both legs
        self.num_under_way = 0

    def arrive(self, arrival: Arrival) -> None:
        num_tokens = arrival.num_input + arrival.num_output
        if num_tokens > self._max_tokens:
            message = f"{num_tokens} tokens of prompt and answer, the cluster holds"
            self._loop.after(
                self._overheads.request_s, self._refuse, arrival, f"{message} {self._max_tokens}"
            )
            return
        self.num_under_way += 1
        read_s = self._overheads.request_s + self._overheads.prompt_token_s * arrival.num_input
        self._loop.after(read_s, self._place, arrival)

    def _place(self, arrival: Arrival, since_s: float | None = None) -> None:
        placed = self._placer.place(arrival.request, 0, frozenset())
        if placed is None:
            self._wait(arrival, since_s)
            return
        placement, facts = placed
        decode = self._cluster.get(placement.decode)
        answer = _Answer(arrival, placement.kind, decode, self._leg(arrival))
        self._answers[answer.decode_leg.leg_id] = answer
        rest = facts.uncached_tokens(placement.decode)
        if placement.prefill is None:
            decode.reserve(
                answer.decode_leg.leg_id,
                compute_tokens=rest,
                new_tokens=rest,
                num_tokens=facts.num_tokens,
            )
            self._start(decode, answer.decode_leg)
            return
        decode.reserve(
            answer.decode_leg.leg_id,
            compute_tokens=0,
            new_tokens=rest,
            num_tokens=facts.num_tokens,
        )
        prefill = self._cluster.get(placement.prefill)
        leg = self._leg(arrival)
        leg.prefill_only = True
        rest = facts.uncached_tokens(placement.prefill)
        prefill.reserve(leg.leg_id, compute_tokens=rest, new_tokens=rest)
        answer.prefill, answer.prefill_leg = prefill, leg
        answer.decode_leg.source = leg
        self._answers[leg.leg_id] = answer
        self._start(prefill, leg)

    def _wait(self, arrival: Arrival, since_s: float | None = None) -> None:
        """No worker takes requests: asks again until worker_wait_s are over."""
        since_s = self._loop.now() if since_s is None else since_s
        if self._loop.now() - since_s >= _WORKER_WAIT_S:
            self.num_under_way -= 1
            self._on_end(arrival, _refusal(arrival, self._loop.now(), "no worker is live", 503))
        else:
            self._loop.after(_WAIT_STEP_S, self._place, arrival, since_s)

    def _leg(self, arrival: Arrival) -> Leg:
        return Leg(
            leg_id=next(self._leg_ids),
            request_index=arrival.index,
            num_known=arrival.num_input,
            num_left=arrival.num_output,
            keys=arrival.request.block_hashes,
        )

    def _start(self, session: SimulatedSession, leg: Leg) -> None:
        self._loop.after(self._overheads.hop_s, session.worker.start, leg)

    def _refuse(self, arrival: Arrival, error: str) -> None:
        self._on_end(arrival, _refusal(arrival, self._loop.now(), error))

    # --- what the workers tell -----------------------------------------------------------------

    def accepted(self, leg: Leg, num_cached_tokens: int) -> None:
        answer = self._answers[leg.leg_id]
        if leg is answer.prefill_leg or answer.prefill is None:
            answer.num_cached = num_cached_tokens
        session = self._session(answer, leg)
        self._later(session.accepted, leg.leg_id, leg.num_known, num_cached_tokens)

    def published(self, leg: Leg) -> None:
        answer = self._answers[leg.leg_id]
        self._later(self._start, answer.decode, answer.decode_leg)

    def token_sampled(self, leg: Leg, is_last: bool) -> None:
        answer = self._answers[leg.leg_id]
        session = self._session(answer, leg)
        if not is_last and not leg.prefill_only:
            self._later(session.computed, leg.leg_id)
            return
        self._later(session.ended, leg.leg_id)
        if is_last:
            self._later(self._end, answer)

    def blocks_changed(self, worker_id: str, event: BlockEvent) -> None:
        self._later(self._cluster.blocks_came, worker_id, event)

    def _session(self, answer: _Answer, leg: Leg) -> SimulatedSession:
        session = answer.prefill if leg is answer.prefill_leg else answer.decode
        assert session is not None
        return session

    def _later(self, call: Callable[..., None], *arguments: object) -> None:
        self._loop.after(self._overheads.hop_s, call, *arguments)

    # --- the end -------------------------------------------------------------------------------

    def _end(self, answer: _Answer) -> None:
        del self._answers[answer.decode_leg.leg_id]
        if answer.prefill_leg is not None:
            del self._answers[answer.prefill_leg.leg_id]
        self.num_under_way -= 1
        on_the_way_s = self._overheads.hop_s + self._overheads.reply_s
        self._on_end(answer.arrival, _record(answer, on_the_way_s))


def _refusal(arrival: Arrival, now_s: float, error: str, status: int = 400) -> RequestRecord:
    return RequestRecord(
        index=arrival.index,
        class_name=arrival.class_name,
        conversation=arrival.conversation,
        turn=arrival.turn,
        intended_s=arrival.at_s,
        sent_s=arrival.at_s,
        end_s=now_s,
        first_s=None,
        gaps=b"",
        num_planned_input=arrival.num_input,
        num_planned_output=arrival.num_output,
        num_input=arrival.num_input,
        num_output=0,
        num_cached=0,
        status=status,
        finish_reason="",
        error=error,
        stages=StageTimes(),
    )


def _record(answer: _Answer, on_the_way_s: float) -> RequestRecord:
    arrival, first_leg = answer.arrival, answer.prefill_leg or answer.decode_leg
    parts = [] if answer.prefill_leg is None else answer.prefill_leg.times
    times = np.concatenate([*parts, *answer.decode_leg.times])
    return RequestRecord(
        index=arrival.index,
        class_name=arrival.class_name,
        conversation=arrival.conversation,
        turn=arrival.turn,
        intended_s=arrival.at_s,
        sent_s=arrival.at_s,
        end_s=float(times[-1]) + on_the_way_s,
        first_s=float(times[0]) + on_the_way_s,
        gaps=np.diff(times).astype(np.float32).tobytes(),
        num_planned_input=arrival.num_input,
        num_planned_output=arrival.num_output,
        num_input=arrival.num_input,
        num_output=len(times),
        num_cached=answer.num_cached,
        status=200,
        finish_reason="length",
        error="",
        stages=_stages(answer, first_leg, float(times[0])),
    )


def _stages(answer: _Answer, first_leg: Leg, first_s: float) -> StageTimes:
    leg, is_remote = answer.decode_leg, answer.prefill is not None
    return StageTimes(
        kind=answer.kind.value,
        prefill_worker="" if answer.prefill is None else answer.prefill.worker.worker_id,
        decode_worker=answer.decode.worker.worker_id,
        queue_s=first_leg.scheduled_s - first_leg.added_s,
        prefill_s=first_s - first_leg.scheduled_s,
        transfer_s=leg.arrived_s - leg.pull_begun_s if is_remote else None,
        exposed_s=leg.arrived_s - leg.prefilled_s if is_remote else None,
    )
