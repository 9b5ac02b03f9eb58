"""The Ray actor that keeps one worker process alive on its node. Runs inside Ray."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import ray

_FIRST_DELAY_S = 0.2
_MAX_DELAY_S = 5.0
_HEALTHY_S = 30.0
_TAIL_LINES = 5


class RayWorker:
    """One worker process as a child of this actor: it ends with the actor, and the actor starts
    it again when it dies. An actor that Ray restarts, here or on another node, starts a new one.

    argv: words in which {python}, {host} and {pid} stand for this node's interpreter, its address
    and the actor's process id. env is added to the environment; secrets travel in it. term: the
    fencing number of the leader that placed it.
    """

    def __init__(self, argv: list[str], env: dict[str, str], drain_s: float, term: int) -> None:
        names = {
            "{python}": sys.executable,
            "{host}": ray.util.get_node_ip_address(),
            "{pid}": str(os.getpid()),
        }
        self._argv = [names.get(word, word) for word in argv]
        self._env = {**os.environ, **env}
        self._drain_s = drain_s
        self._term = term  # the highest that was heard
        self._term_lock = threading.Lock()
        self._node = ray.get_runtime_context().get_node_id()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._num_starts = 0
        self._started_at_s = time.monotonic()
        self._process: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def status(self, term: int) -> dict[str, object]:
        """Of the process: pid 0 while none runs. term: of the leader that asks."""
        self._is_current(term)
        process = self._process
        running = process is not None and process.poll() is None
        return {
            "pid": process.pid if process is not None and running else 0,
            "num_starts": self._num_starts,
            "uptime_s": time.monotonic() - self._started_at_s if running else 0.0,
            "last_line": self._tail[-1] if self._tail and not running else "",
            "node": self._node,
        }

    def stop(self, term: int) -> bool:
        """SIGTERM, the drain time, SIGKILL. False, and nothing is done, where the leader of a later
        term has spoken."""
        if not self._is_current(term):
            return False
        self._stopping.set()
        process = self._process
        if process is None:
            return True
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(self._drain_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return True

    def _is_current(self, term: int) -> bool:
        with self._term_lock:
            self._term = max(self._term, term)
            return term == self._term

    def _keep(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stopping.is_set():
            self._run_once()
            healthy = time.monotonic() - self._started_at_s >= _HEALTHY_S
            delay_s = _FIRST_DELAY_S if healthy else min(_MAX_DELAY_S, delay_s * 2)
            self._stopping.wait(delay_s)

    def _run_once(self) -> None:
        self._num_starts += 1
        self._started_at_s = time.monotonic()
        try:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            self._tail.append(f"cannot start {self._argv[0]}: {error}")
            return
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(line, end="", flush=True)  # to the actor's log, which Ray keeps
            if line.strip():
                self._tail.append(line.strip())
        self._process.wait()
