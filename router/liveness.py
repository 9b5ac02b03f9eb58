"""Whether a worker can be believed: its frames keep coming and its layers advance."""

from wire.messages import WorkerReport


class Liveness:
    """Watches one session. All times are seconds of the router's clock.

    A worker found stuck stays unbelievable over reconnections until progress is made or its work
    is gone.
    """

    def __init__(self, heartbeat_timeout_s: float, step_timeout_s: float, now_s: float) -> None:
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._step_timeout_s = step_timeout_s
        self._frame_at_s = now_s
        self._progress_at_s = now_s
        self._position = (-1, -1)  # steps and layers done
        self._has_work = False
        self._is_stuck = False

    @property
    def is_stuck(self) -> bool:
        return self._is_stuck

    def opened(self, now_s: float) -> None:
        self._frame_at_s = now_s

    def frame_came(self, now_s: float) -> None:
        self._frame_at_s = now_s

    def report_came(self, now_s: float, report: WorkerReport) -> None:
        position = report.num_steps, report.progress
        advanced = position != self._position
        if advanced or not report.has_work or not self._has_work:
            self._progress_at_s = now_s
        if advanced or not report.has_work:
            self._is_stuck = False
        self._position = position
        self._has_work = report.has_work

    def forgive(self, seconds: float) -> None:
        """The router itself stood still for so long; the worker is not to blame."""
        self._frame_at_s += seconds
        self._progress_at_s += seconds

    def complaint(self, now_s: float) -> str | None:
        """Why the worker counts as lost, None while it does not."""
        if self._is_silent(now_s):
            return f"no frame for {self._heartbeat_timeout_s} s"
        if self._stands_still(now_s):
            self._is_stuck = True
            return f"work but no step for {self._step_timeout_s} s"
        return None

    def would_complain(self, now_s: float) -> bool:
        return self._is_silent(now_s) or self._stands_still(now_s)

    def _is_silent(self, now_s: float) -> bool:
        return now_s - self._frame_at_s > self._heartbeat_timeout_s

    def _stands_still(self, now_s: float) -> bool:
        stuck_s = now_s - self._progress_at_s
        return self._has_work and not self._is_stuck and stuck_s > self._step_timeout_s
