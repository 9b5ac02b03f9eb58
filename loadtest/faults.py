"""Faults during a run: which, when, to whom; and whether the cluster got over them."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loadtest.columns import Columns
from loadtest.errors import LoadtestError
from loadtest.quantities import parse_duration_s
from loadtest.result import FaultOutcome
from runtime.clock import Clock

_FAULT = re.compile(r"([\w.-]+)@([\w.]+?)(?:\+([\w.]+))?")
_POLL_S = 0.25
_RECOVERED_SHARE = 0.9  # of the attainment before the fault
_RECOVERY_SPAN = 20  # requests that together have to do as well as before


@dataclass(frozen=True, slots=True)
class Fault:
    """kind: kill, or freeze for duration_s. victim: a role, a kind of process, or a name."""

    kind: str
    victim: str
    at_s: float
    duration_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.victim} at {self.at_s:g} s"


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was tried. problem: why it could not be done. back_s: seconds until the victim
    was live again, None if it was not before the run ended."""

    fault: Fault
    at_s: float
    victim: str
    back_s: float | None = None
    problem: str = ""


class FaultInjector(Protocol):
    """Access to the processes of the cluster under test."""

    async def inject(self, fault: Fault) -> str:
        """Does it, and gives the victim's name. Raises LoadtestError when it cannot."""
        ...

    async def is_back(self, victim: str) -> bool:
        """The victim, or what was started in its place, is live again."""
        ...


def parse_fault(kind: str, text: str) -> Fault:
    """`prefill@30s`, `decode-0@1m`, `decode@30s+5s` (a freeze of 5 s)."""
    match = _FAULT.fullmatch(text.strip())
    if match is None:
        raise LoadtestError(f"{text!r} is not a fault such as prefill@30s")
    duration_s = parse_duration_s(match[3]) if match[3] else 0.0
    if kind == "freeze" and duration_s == 0:
        raise LoadtestError(f"the freeze {text!r} needs its length, as in {text}+5s")
    return Fault(kind, match[1], parse_duration_s(match[2]), duration_s)


async def inject_at_its_time(
    fault: Fault, injector: FaultInjector, clock: Clock, start: float
) -> Injected:
    """Waits, does it, and watches for the victim's return until cancelled."""
    await asyncio.sleep(max(0.0, start + fault.at_s - clock.now()))
    began = clock.now()
    try:
        victim = await injector.inject(fault)
    except LoadtestError as error:
        return Injected(fault, began - start, "", problem=str(error))
    try:
        while not await injector.is_back(victim):
            await asyncio.sleep(_POLL_S)
    except asyncio.CancelledError:
        return Injected(fault, began - start, victim)
    return Injected(fault, began - start, victim, clock.now() - began)


def outcome(injected: Injected, everything: Columns, window_start_s: float) -> FaultOutcome:
    """What the requests show of a fault.

    Recovery is the intended start of the first request after which 20 in a row (or all that are
    left, at least 5) reach 90 % of the attainment before the fault. Failures and stalls count of
    requests that were under way between the fault and the later of recovery and return.
    """
    at_s = injected.at_s
    before = everything.intended_within(window_start_s, at_s)
    finished_before = before.where(before.end_s <= at_s)
    attained = float(finished_before.is_good.mean()) if len(finished_before) else 1.0
    recovery_s = _recovery_s(everything.intended_within(at_s, np.inf), at_s, attained)
    is_over = recovery_s is not None and injected.back_s is not None
    until_s = at_s + max(recovery_s or 0.0, injected.back_s or 0.0) if is_over else np.inf
    started = everything.intended_s <= at_s
    touched = everything.where((everything.end_s > at_s) & (everything.intended_s <= until_s))
    return FaultOutcome(
        what=str(injected.fault),
        at_s=at_s,
        victim=injected.victim,
        num_in_flight=int((started & (everything.end_s > at_s)).sum()),
        num_failed=int((~touched.is_ok).sum()),
        longest_stall_ms=float(touched.stall_s.max() * 1000) if len(touched) else 0.0,
        attainment_before=attained,
        recovery_s=recovery_s,
        back_s=injected.back_s,
        problem=injected.problem,
    )


def outcomes(
    injected: Sequence[Injected], everything: Columns, window_start_s: float
) -> tuple[FaultOutcome, ...]:
    return tuple(outcome(one, everything, window_start_s) for one in injected)


def _recovery_s(after: Columns, at_s: float, attained: float) -> float | None:
    good = after.is_good.astype(float)
    for first in range(max(0, good.size - 4)):
        span = good[first : first + _RECOVERY_SPAN]
        if span[0] and span.mean() >= _RECOVERED_SHARE * attained:
            return max(0.0, float(after.intended_s[first]) - at_s)
    return None
