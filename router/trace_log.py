"""Every ended request as a line of JSON in a file that never grows over its bound."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread
from typing import BinaryIO

import msgspec

from router.output import RequestTrace
from runtime.log import get_logger

_MAX_WAITING = 10_000
_PATIENCE_S = 0.5  # after so long without a line, what was written is flushed
_Line = tuple[str, float, RequestTrace]
_log = get_logger("router")


class TraceLogError(Exception):
    """A file that cannot be written; the message names it and says why."""


class TraceLog:
    """Writes behind the event loop's back, in a thread of its own. close() writes what waits.

    At max_bytes the file becomes FILE.1, and the FILE.1 before it goes: two files are the bound.
    When the disk does not keep up, lines are left out and counted.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        wall_time_s: Callable[[], float],
        on_drop: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises TraceLogError for a file that cannot be opened. on_drop: a line is left out."""
        self._path = path
        self._max_bytes = max_bytes
        self._wall_time_s = wall_time_s
        self._on_drop = on_drop
        self._waiting: Queue[_Line | None] = Queue(_MAX_WAITING)
        try:
            self._file: BinaryIO = path.open("ab")
        except OSError as error:
            raise TraceLogError(f"the trace log {path} cannot be written: {error}") from error
        self._thread = Thread(target=self._run, name="trace-log", daemon=True)
        self._thread.start()

    def put(self, request_id: str, trace: RequestTrace) -> None:
        """Never waits."""
        try:
            self._waiting.put_nowait((request_id, self._wall_time_s(), trace))
        except Full:
            self._on_drop()

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while True:
            try:
                line = self._waiting.get(timeout=_PATIENCE_S)
            except Empty:
                self._file.flush()
                continue
            if line is None:
                return
            try:
                self._write(line)
            except OSError as error:
                _log.warning("a trace is not written", path=str(self._path), reason=str(error))
                self._on_drop()

    def _write(self, line: _Line) -> None:
        request_id, ended_at_s, trace = line
        entry = {"id": request_id, "ended_at_s": ended_at_s, **asdict(trace)}
        text = msgspec.json.encode(entry) + b"\n"
        if self._file.tell() and self._file.tell() + len(text) > self._max_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab")
        self._file.write(text)
