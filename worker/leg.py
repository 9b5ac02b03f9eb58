"""One leg on this worker, and what it is in the engine's and the wire's terms."""

from dataclasses import dataclass

from engine.sequence import EngineRequest
from kv_transfer.pull import PullResult
from wire.messages import LegTransferred, StartLeg


@dataclass(slots=True)
class Leg:
    """What a session asked for, and how far it is."""

    session_id: int
    start: StartLeg
    num_cached_tokens: int = 0
    is_finished: bool = False
    device_s: float = 0.0  # of the engine's steps, its share by the tokens computed


def engine_request(seq_id: int, leg: StartLeg, came_s: float = 0.0) -> EngineRequest:
    """The leg as the engine takes it."""
    request = leg.request
    return EngineRequest(
        seq_id=seq_id,
        prompt_tokens=request.prompt_tokens,
        sampling=request.sampling,
        block_hashes=request.block_hashes,
        output_tokens=leg.output_tokens,
        prefill_only=leg.prefill_only,
        cache_salt=request.cache_salt,
        priority=request.priority,
        keep_s=request.keep_s,
        came_s=came_s,
    )


def transferred(leg_id: int, result: PullResult) -> LegTransferred:
    """How the leg's pull went."""
    return LegTransferred(
        leg_id,
        result.num_bytes,
        result.transfer_s,
        result.exposed_s,
        result.transport,
        "" if result.ok else (result.error or "the pull failed"),
    )
