"""Where a kept process writes: a log file of its own, or this process's terminal."""

from pathlib import Path
from typing import IO

_TAIL_BYTES = 8192
_ROTATE_BYTES = 16 << 20


class ProcessOutput:
    """Standard output and error of one process over all of its starts.

    path None passes both through, and no last line is known. A file over 16 MiB is moved to
    NAME.log.1 before a start.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._start_bytes = 0

    def open(self) -> IO[bytes]:
        """The file that the next start writes to; the caller closes its copy."""
        if self.path is None:
            return open(2, "wb", closefd=False)
        if self.path.exists() and self.path.stat().st_size > _ROTATE_BYTES:
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        sink = self.path.open("ab")
        self._start_bytes = sink.tell()
        return sink

    def write(self, text: str) -> None:
        with self.open() as sink:
            sink.write(text.encode())

    def last_line(self) -> str:
        """The last line with something on it that was written since the latest start."""
        if self.path is None:
            return ""
        try:
            with self.path.open("rb") as source:
                size_bytes = source.seek(0, 2)
                source.seek(max(self._start_bytes, size_bytes - _TAIL_BYTES))
                lines = source.read().decode(errors="replace").splitlines()
        except OSError:  # somebody removed the file
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
