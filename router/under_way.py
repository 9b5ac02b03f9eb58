"""How much of the prompts that count as waiting at a worker it has computed by now."""

import math

from wire.messages import WorkerReport

_FADE = 0.95  # how fast a long step loses its say, a report


class StepUnderWay:
    """Between two accounts of what waits, four a second and one at each first token, work goes on.

    since_s: of the last account, or of the first prompt that came to a worker without any; inf
    while none waits. longest_s: the longest of the last steps; a worker of which nothing is heard
    for longer may be stuck, and no more counts as done.
    """

    def __init__(self) -> None:
        self.since_s = math.inf
        self.longest_s = 0.0
        self._num_steps = -1
        self._steps_s = 0.0  # that they have taken

    def reported(self, report: WorkerReport, waiting_tokens: int, now_s: float) -> None:
        """waiting_tokens: with those of legs that the report does not count. One that tells of no
        step tells nothing new."""
        num_new, taken_s = report.num_steps - self._num_steps, report.totals.step_s - self._steps_s
        self._num_steps, self._steps_s = report.num_steps, report.totals.step_s
        mean_s = taken_s / num_new if num_new > 0 else 0.0
        self.longest_s = max(report.step_s, mean_s, _FADE * self.longest_s)
        is_new = num_new != 0 and report.waiting_tokens > 0
        self.counted(waiting_tokens, now_s, is_new)

    def counted(self, waiting_tokens: int, now_s: float, is_new: bool) -> None:
        """is_new: a step has ended, and what it computed waits no more."""
        if not waiting_tokens:
            self.since_s = math.inf
        elif is_new or self.since_s == math.inf:
            self.since_s = now_s
