"""When the tokens of an answer go to the client: those that come fast go out together."""

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def event_times(times_s: Floats, pause_s: float) -> Floats:
    """As `router.mailbox.Mailbox` hands tokens on: one that comes within pause_s of the event
    before waits for the pause's end, with all that come until then; the last one never waits.

    times_s: rising.  # [num_tokens] -> [num_events], the first and the last time the same
    """
    if len(times_s) < 3 or not pause_s or float(np.diff(times_s).min()) >= pause_s:
        return times_s
    ready_s: list[float] = times_s.tolist()
    end_s, until_s, told_s, place = ready_s[-1], ready_s[0], [], 0
    while (at_s := max(ready_s[place], until_s)) < end_s:
        told_s.append(at_s)
        until_s = at_s + pause_s
        place = bisect_right(ready_s, at_s, place)
    return np.array([*told_s, end_s])
