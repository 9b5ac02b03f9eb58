"""Who did what: a ring in memory, and a file of JSON lines where one is configured."""

import os
from collections import deque
from pathlib import Path

import msgspec

from control_plane.api.shapes import AuditEntry
from runtime.log import get_logger

_log = get_logger("control_plane")


class AuditLog:
    """Numbers and keeps the newest entries. path None: in memory only.

    A file that cannot be written does not stop an action; the log says so each time.
    """

    def __init__(self, path: Path | None = None, capacity: int = 1000) -> None:
        self._path = path
        self._entries: deque[AuditEntry] = deque(maxlen=capacity)
        self._next_id = 1

    def next_id(self) -> int:
        """The id of an action that begins, which its entry will carry."""
        self._next_id += 1
        return self._next_id - 1

    def append(self, entry: AuditEntry) -> None:
        self._entries.append(entry)
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
        return list(self._entries)[::-1][:limit]

    def _write(self, path: Path, line: bytes) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            _log.error("the audit log cannot be written", path=str(path), reason=error.strerror)
