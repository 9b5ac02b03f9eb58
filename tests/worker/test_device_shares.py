"""What legs are told that they took of a worker adds up to the time that it worked."""

from collections.abc import Callable
from typing import Any

import pytest

from wire.messages import LegFinished, LegTokens, Role
from worker.commands import Cancel

SESSION = 1


def told_s(worker: Any, leg_id: int) -> list[float]:
    return [event.device_s for event in worker.of(leg_id) if isinstance(event, LegTokens)]


def test_the_shares_of_all_legs_are_the_steps_and_grow_with_their_tokens(
    make_worker: Callable[..., Any], drive: Callable[..., None], start_leg: Callable[..., Any]
) -> None:
    """Prompts of several chunks, decodes beside them, one leg that ends early."""
    worker = make_worker(Role.DECODE)
    lengths = {1: 150, 2: 40, 3: 5}
    for leg_id, length in lengths.items():
        prompt = tuple((leg_id * 31 + i) % 120 for i in range(length))
        worker.apply(start_leg(leg_id, prompt, max_tokens=6 * leg_id))
    ends = lambda: {e.leg_id for e in worker.events if isinstance(e, LegFinished)}  # noqa: E731
    drive(lambda: ends() == set(lengths), worker)
    for leg_id in lengths:
        shares = told_s(worker, leg_id)
        assert shares[0] > 0 and shares == sorted(set(shares))
    whole_s = sum(told_s(worker, leg_id)[-1] for leg_id in lengths)
    assert whole_s == pytest.approx(worker.core.report().totals.step_s)


def test_a_cancelled_leg_keeps_what_it_was_told_and_takes_no_more(
    make_worker: Callable[..., Any], drive: Callable[..., None], start_leg: Callable[..., Any]
) -> None:
    worker = make_worker(Role.DECODE)
    for leg_id in (1, 2):
        worker.apply(start_leg(leg_id, tuple(range(leg_id, 30)), max_tokens=40))
    drive(lambda: len(told_s(worker, 1)) >= 5, worker)
    told = told_s(worker, 1)[-1] + told_s(worker, 2)[-1]
    assert told == pytest.approx(worker.core.report().totals.step_s)
    worker.apply(Cancel(SESSION, 1))
    drive(lambda: any(isinstance(e, LegFinished) for e in worker.of(2)), worker)
    told = told_s(worker, 1)[-1] + told_s(worker, 2)[-1]
    assert told == pytest.approx(worker.core.report().totals.step_s)
