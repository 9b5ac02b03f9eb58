"""Who did what: a ring in memory, and a file of JSON lines where one is configured."""

import os
from collections import deque
from pathlib import Path

import msgspec

from control_plane.api.shapes import AuditEntry
from control_plane.state.journal import Journal
from runtime.log import get_logger

_log = get_logger("control_plane")


class AuditLog:
    """Numbers and keeps the newest entries. path None: in memory only.

    A file that cannot be written does not stop an action; the log says so each time.
    """

    def __init__(self, path: Path | None = None, capacity: int = 1000) -> None:
        self._path = path
        self._journal: Journal[AuditEntry] = Journal(capacity)
        self._untold: deque[AuditEntry] = deque(maxlen=capacity)
        self._last_id = 0

    def next_id(self) -> int:
        """The id of an action that begins, which its entry will carry: above all known ones.

        Two control planes that refuse or try an action at the same time may give the same.
        """
        self._last_id = max(self._last_id, self._journal.highest_id) + 1
        return self._last_id

    def append(self, entry: AuditEntry) -> None:
        self._journal.add(entry)
        self._untold.append(entry)
        _log.info(
            "operator action",
            who=entry.who,
            action=entry.action,
            outcome=entry.outcome,
            message=entry.message,
        )
        if self._path is not None:
            self._write(self._path, msgspec.json.encode(entry) + b"\n")

    def newest(self, limit: int) -> list[AuditEntry]:
        """Newest first."""
        return self._journal.newest(limit)

    def learn(self, entry: AuditEntry) -> None:
        """An entry of another control plane, whose file has it."""
        self._journal.add(entry)

    def take_untold(self) -> tuple[AuditEntry, ...]:
        """This process's own entries since the last call."""
        untold = tuple(self._untold)
        self._untold.clear()
        return untold

    def _write(self, path: Path, line: bytes) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            _log.error("the audit log cannot be written", path=str(path), reason=error.strerror)
