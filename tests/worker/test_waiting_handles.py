"""A request that waits at decode for longer than a lease still gets what prefill computed."""

from typing import Any

from runtime.clock import VirtualClock
from wire.messages import LegFinished, LegPublished, LegTransferred, Role

PROMPT = tuple(range(1, 101))
LEASE_S = 30.0


def has(worker: Any, leg_id: int, kind: type) -> bool:
    return any(isinstance(event, kind) for event in worker.of(leg_id))


def test_a_lease_is_kept_while_its_request_waits_for_room(
    make_worker: Any, drive: Any, start_leg: Any
) -> None:
    clock = VirtualClock()
    prefill = make_worker(Role.PREFILL, lease_clock=clock)
    decode = make_worker(Role.DECODE, num_blocks=12)
    resident = tuple(range(20, 110))
    decode.apply(start_leg(1, resident, 60))
    drive(lambda: has(decode, 1, LegFinished) or len(decode.tokens(1)) > 2, decode)
    prefill.apply(start_leg(2, PROMPT, prefill_only=True))
    drive(lambda: has(prefill, 2, LegPublished), prefill)
    (handle,) = [event.handle for event in prefill.of(2) if isinstance(event, LegPublished)]
    decode.apply(start_leg(2, PROMPT, handle=handle))
    decode.turn()
    for _ in range(3):  # decode's engine stands still, its fabric does not
        clock.advance(0.7 * LEASE_S)
        drive(lambda: prefill.exporter._exports.expire() == LEASE_S, prefill)  # a whole one again
    assert not has(decode, 2, LegTransferred), "the pool had room, so nothing waited"
    drive(lambda: has(decode, 2, LegFinished), prefill, decode)
    (told,) = [event for event in decode.of(2) if isinstance(event, LegTransferred)]
    assert told.failure == ""
    assert told.num_bytes > 0
