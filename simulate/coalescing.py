"""When the tokens of an answer go to the client: those that come fast go out together."""

from array import array
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Pauses:
    """How long a pause is that begins at some time, at any time up to the present."""

    def __init__(self, pause_s: float) -> None:
        self._since_s = array("d", (0.0,))
        self._pauses_s = array("d", (pause_s,))

    def note(self, now_s: float, pause_s: float) -> None:
        """From now on; the times come in their order."""
        if pause_s != self._pauses_s[-1]:
            self._since_s.append(now_s)
            self._pauses_s.append(pause_s)

    def since(self, at_s: float) -> float | None:
        """The pause that all have had from that time on; None: it has changed."""
        return self._pauses_s[-1] if at_s >= self._since_s[-1] else None

    def at(self, at_s: float) -> float:
        return self._pauses_s[bisect_right(self._since_s, at_s) - 1]


def event_times(times_s: Floats, pauses: Pauses) -> Floats:
    """As `router.mailbox.Mailbox` hands tokens on: one that comes within a pause of the event
    before waits for the pause's end, with all that come until then; the last one never waits.

    times_s: rising.  # [num_tokens] -> [num_events], the first and the last time the same
    """
    if len(times_s) < 3:
        return times_s
    pause_s = pauses.since(float(times_s[0]))
    if pause_s is not None and float(np.diff(times_s).min()) >= pause_s:
        return times_s
    ready_s: list[float] = times_s.tolist()
    end_s, at_s, told_s, place = ready_s[-1], ready_s[0], [], 0
    while at_s < end_s:
        told_s.append(at_s)
        until_s = at_s + (pauses.at(at_s) if pause_s is None else pause_s)
        while ready_s[place] <= at_s:
            place += 1
        at_s = ready_s[place]
        if at_s < until_s:
            at_s = until_s
    told_s.append(end_s)
    return np.array(told_s)
