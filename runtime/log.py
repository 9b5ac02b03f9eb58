"""Structured logs on standard error: readable on a terminal, one JSON object a line elsewhere."""

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog

Logger = structlog.stdlib.BoundLogger


def configure(process: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Sets logging up for this process; `process` stands in every line."""
    out = stream or sys.stderr
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if out.isatty()
        else structlog.processors.JSONRenderer(sort_keys=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Unfailing(out))),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)


class _Unfailing:
    """A log that cannot be written, on a full disk or a closed pipe, fails nobody's work."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self._out.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._out.flush()


def get_logger(room: str) -> Logger:
    """A logger whose lines name the room they come from."""
    logger: Logger = structlog.get_logger(room=room)
    return logger
