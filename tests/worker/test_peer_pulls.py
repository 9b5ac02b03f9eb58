"""A prefix that another worker's cache holds is pulled from there instead of computed again."""

from collections.abc import Callable
from typing import Any

import pytest

from wire.messages import LegAccepted, LegFinished, LegPublished, LegTransferred, Role
from worker.commands import Leave

PROMPT = tuple(range(1, 101))
LONGER = (*PROMPT, *range(40, 75))


def has(worker: Any, leg_id: int, kind: type) -> Callable[[], bool]:
    return lambda: any(isinstance(event, kind) for event in worker.of(leg_id))


def only(worker: Any, leg_id: int, kind: type) -> Any:
    (found,) = (event for event in worker.of(leg_id) if isinstance(event, kind))
    return found


def published(worker: Any, leg_id: int, drive: Any, *others: Any) -> Any:
    drive(has(worker, leg_id, LegPublished), worker, *others)
    return only(worker, leg_id, LegPublished).handle


@pytest.fixture
def shared(make_worker: Any, drive: Any, start_leg: Any) -> tuple[Any, Any]:
    """A worker that has answered PROMPT, and the handle of what its cache holds of LONGER."""
    peer = make_worker(Role.DECODE)
    peer.apply(start_leg(1, PROMPT, max_tokens=1))
    drive(has(peer, 1, LegFinished), peer)
    peer.apply(start_leg(2, LONGER, share=True))
    return peer, published(peer, 2, drive)


def alone(make_worker: Any, drive: Any, start_leg: Any) -> list[int]:
    worker = make_worker(Role.DECODE)
    worker.apply(start_leg(1, LONGER))
    drive(has(worker, 1, LegFinished), worker)
    return list(worker.tokens(1))


def test_a_prefill_worker_computes_behind_what_it_has_pulled_from_a_peer(
    make_worker: Any, drive: Any, start_leg: Any, shared: Any
) -> None:
    peer, handle = shared
    prefill, decode = make_worker(Role.PREFILL), make_worker(Role.DECODE)
    prefill.apply(start_leg(3, LONGER, prefill_only=True, handle=handle))
    onward = published(prefill, 3, drive, peer)
    decode.apply(start_leg(4, LONGER, handle=onward))
    drive(has(decode, 4, LegFinished), peer, prefill, decode)
    assert decode.tokens(4) == alone(make_worker, drive, start_leg)
    assert prefill.tokens(3) == decode.tokens(4)[:1]
    assert prefill.core.report().totals.num_prefill_tokens == len(LONGER) - 96
    assert only(prefill, 3, LegTransferred).failure == ""
    workers = peer, prefill, decode
    drive(lambda: all(worker.core.is_quiet for worker in workers), *workers)


def test_a_worker_that_does_both_phases_pulls_from_a_peer_too(
    make_worker: Any, drive: Any, start_leg: Any, shared: Any
) -> None:
    peer, handle = shared
    worker = make_worker(Role.DECODE)
    worker.apply(start_leg(3, LONGER, handle=handle))
    drive(has(worker, 3, LegFinished), peer, worker)
    assert worker.tokens(3) == alone(make_worker, drive, start_leg)
    assert worker.core.report().totals.num_prefill_tokens == len(LONGER) - 96
    assert only(worker, 3, LegAccepted).num_cached_tokens == 0


def test_a_peer_that_takes_its_handle_back_leaves_the_prompt_to_be_computed(
    make_worker: Any, drive: Any, start_leg: Any, shared: Any
) -> None:
    peer, handle = shared
    peer.apply(Leave(1))
    prefill = make_worker(Role.PREFILL)
    prefill.apply(start_leg(3, LONGER, prefill_only=True, handle=handle))
    drive(has(prefill, 3, LegFinished), peer, prefill)
    assert only(prefill, 3, LegTransferred).failure
    assert prefill.tokens(3) == alone(make_worker, drive, start_leg)[:1]
    assert prefill.core.report().totals.num_prefill_tokens == len(LONGER)
