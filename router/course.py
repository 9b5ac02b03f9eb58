"""How a request has run so far: its times, its counts, and the trace that they make."""

from dataclasses import dataclass, field, replace

from router.attempt import Attempt
from router.device_time import DeviceTime
from router.output import CandidateTrace, RequestTrace
from router.policies.policy import Pair
from wire.messages import GenerateRequest


@dataclass(slots=True)
class Course:
    """arrived_s, first_s and last_s are on the router's clock, first_s and last_s of the answer's
    tokens and 0 without one; admitted_s and placed_s count from the arrival. num_cached_tokens: of
    the prompt, before the first token. pause_s: the longest that a move has made. devices: one an
    attempt. hedge: as RequestTrace has it.
    """

    arrived_s: float
    admitted_s: float = 0.0
    placed_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    num_attempts: int = 0
    num_cached_tokens: int = 0
    num_moves: int = 0
    pause_s: float = 0.0
    outcome: str = "cancelled"
    hedge: str = ""
    devices: list[DeviceTime] = field(default_factory=list)

    @property
    def runs_as_placed(self) -> bool:
        """No attempt has given way to a later one, other than to one beside it."""
        return self.num_attempts == 1 + (self.hedge != "")

    def token_came(self, num_moves: int, now_s: float) -> float | None:
        """The pause before it when it is the first one behind a move."""
        paused_s = None
        if num_moves > self.num_moves:
            self.num_moves, paused_s = num_moves, now_s - self.last_s
            self.pause_s = max(self.pause_s, paused_s)
        self.last_s = now_s
        return paused_s

    def trace(
        self,
        request: GenerateRequest,
        num_sent: int,
        ttft_slo_s: float,
        tpot_slo_s: float,
        attempt: Attempt | None,
        now_s: float,
    ) -> RequestTrace:
        """num_sent: tokens that the client has. attempt: the last one."""
        asked = RequestTrace(
            kind="",
            prefill_worker="",
            decode_worker="",
            attempts=0,
            outcome=self.outcome,
            arrived_s=self.arrived_s,
            admitted_s=self.admitted_s,
            total_s=now_s - self.arrived_s,
            tenant=request.terms.tenant,
            model=request.terms.model,
            priority=request.priority,
            num_prompt_tokens=len(request.prompt_tokens),
            num_cached_tokens=self.num_cached_tokens,
            num_output_tokens=num_sent,
            ttft_slo_s=ttft_slo_s,
            tpot_slo_s=tpot_slo_s,
            prefill_device_s=sum(device.prefill_s for device in self.devices),
            decode_device_s=sum(device.decode_s for device in self.devices),
        )
        return asked if attempt is None else self._placed(asked, attempt, now_s)

    def _placed(self, asked: RequestTrace, attempt: Attempt, now_s: float) -> RequestTrace:
        placement, times, ranking = attempt.placement, attempt.times, attempt.placement.ranking
        num_gaps = max(1, asked.num_output_tokens - 1)
        return replace(
            asked,
            kind=placement.kind.value,
            prefill_worker=placement.prefill or "",
            decode_worker=attempt.legs.decode.info.worker_id,
            moves=self.num_moves,
            pause_s=self.pause_s,
            attempts=self.num_attempts,
            hedge=self.hedge,
            placed_s=self.placed_s,
            queue_s=times.queue_s,
            prefill_s=times.prefill_s,
            transfer_s=times.transfer_s,
            exposed_s=times.exposed_s,
            transfer_failure=times.transfer_failure,
            explanation=placement.explanation,
            ttft_s=self.first_s - self.arrived_s if self.first_s else 0.0,
            tpot_s=(now_s - self.first_s) / num_gaps if self.first_s else 0.0,
            predicted=ranking[0].forecast if ranking else None,
            candidates=tuple(_candidate(pair) for pair in ranking),
        )


def _candidate(pair: Pair) -> CandidateTrace:
    source = "" if pair.prefill is None else pair.prefill.worker_id
    return CandidateTrace(source, pair.decode.worker_id, pair.forecast)
