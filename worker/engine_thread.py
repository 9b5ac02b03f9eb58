"""The thread that owns the core: it alone touches the engine."""

import queue
import threading
from collections.abc import Callable

from runtime.log import get_logger
from wire.messages import WorkerReport
from worker.commands import Command
from worker.core import Outbox, WorkerCore

log = get_logger("worker")


class _Stop:
    """Ends the loop; the inbox carries it behind every earlier command."""


class EngineThread:
    """Runs a WorkerCore. `post` may be called from any thread, `deliver` is called from this one.

    It sleeps while the engine has nothing to run.
    """

    def __init__(self, core: WorkerCore, deliver: Callable[[Outbox], None]) -> None:
        self._core = core
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Command | _Stop] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._report = core.report()
        self._is_quiet = True

    def start(self) -> None:
        self._thread.start()

    def post(self, command: Command) -> None:
        self._inbox.put(command)

    def stop(self, timeout_s: float) -> bool:
        """Ends the loop after the commands so far; False when it did not end in time."""
        self._inbox.put(_Stop())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def report(self) -> WorkerReport:
        """As of the last turn; its step count stands still while a step hangs."""
        return self._report

    @property
    def is_quiet(self) -> bool:
        """No leg and no export was alive at the end of the last turn."""
        return self._is_quiet and self._inbox.empty()

    def _run(self) -> None:
        while self._receive():
            self._report = self._core.report()
            self._step()
            self._emit()

    def _receive(self) -> bool:
        """Applies what waits; blocks for a command when the engine has nothing to do."""
        block = not self._core.has_work
        while True:
            try:
                command = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if isinstance(command, _Stop):
                return False
            self._core.apply(command)
            block = False

    def _step(self) -> None:
        try:
            self._core.step()
        except Exception as error:  # the task's edge: these legs fail, the worker goes on
            log.exception("step_failed")
            self._core.fail_all(f"the engine failed: {type(error).__name__}: {error}")

    def _emit(self) -> None:
        self._report = self._core.report()
        self._is_quiet = self._core.is_quiet
        outbox = self._core.take_outbox()
        if not outbox.is_empty:
            self._deliver(outbox)
