"""The thread that owns the core: it alone touches the engine."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from runtime.clock import Clock
from runtime.log import get_logger
from wire.messages import StepTotals, WorkerReport
from worker.core import WorkerCore
from worker.inbox import Inbox, Stop
from worker.outbox import Outbox

_CHECK_INTERVAL_S = 5.0
_NUM_RECENT = 2048  # steps that are remembered one by one: a second has at most a thousand
log = get_logger("worker")


class EngineThread:
    """Receive, step, emit. It sleeps while the engine has nothing to run.

    `deliver` is called on this thread with what a turn brought.
    """

    def __init__(
        self, core: WorkerCore, inbox: Inbox, deliver: Callable[[Outbox], None], clock: Clock
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._deliver = deliver
        self._clock = clock
        self._checked_s = clock.now()
        self._turn_s = clock.now()  # the last step's end, or when there was something to run
        self._report = core.report()
        self._recent: deque[StepTotals] = deque(maxlen=_NUM_RECENT)
        self._is_quiet = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the loop after the commands so far; False when a step still hangs."""
        self._inbox.stop()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def report(self) -> WorkerReport:
        """As of the running turn, and how far its step is: both stand still when it hangs."""
        return replace(self._report, progress=self._core.progress)

    def recent_steps(self) -> tuple[StepTotals, ...]:
        """The totals behind each of the last steps, oldest first."""
        return tuple(self._recent)

    @property
    def is_quiet(self) -> bool:
        """No leg, pull or export was alive at the end of the last turn, and nothing waits."""
        return self._is_quiet and self._inbox.is_empty

    def _run(self) -> None:
        while self._receive():
            self._step()
            self._emit()
            self._rest()

    def _receive(self) -> bool:
        """Applies what waits, or waits for something when there is nothing to run."""
        is_idle = not self._core.has_work
        command = self._inbox.take(block=is_idle)
        if is_idle:
            self._turn_s = self._clock.now()
        while command is not None:
            if isinstance(command, Stop):
                return False
            self._is_quiet = False
            self._core.apply(command)
            command = self._inbox.take(block=False)
        return True

    def _step(self) -> None:
        try:
            plan = self._core.begin_step()
            if plan is None:
                self._turn_s = self._clock.now()
            else:
                self._emit()
                begun_s = self._clock.now()
                step_s = self._core.run_step(plan, begun_s - self._turn_s)
                self._turn_s = begun_s + step_s
        except Exception as error:  # the task's edge: these legs fail, the worker goes on
            log.exception("step_failed")
            self._core.fail_all(f"the engine failed: {type(error).__name__}: {error}")

    def _emit(self) -> None:
        outbox = self._core.take_outbox()
        if outbox.steps:
            self._recent.append(outbox.report.totals)
        self._report = outbox.report
        if not outbox.is_empty:
            self._deliver(outbox)

    def _rest(self) -> None:
        if self._core.is_quiet:
            self._check()
        self._is_quiet = self._core.is_quiet

    def _check(self) -> None:
        """Looks at every pool's invariants when idle, at most every few seconds."""
        if self._clock.now() - self._checked_s < _CHECK_INTERVAL_S:
            return
        self._checked_s = self._clock.now()
        try:
            self._core.check_integrity()
        except AssertionError as error:
            log.error("integrity_failed", error=str(error))
