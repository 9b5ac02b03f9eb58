"""Structured logs on standard error: readable on a terminal, one JSON object a line elsewhere."""

import logging
import sys
from typing import TextIO

import structlog

Logger = structlog.stdlib.BoundLogger


def configure(process: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Sets logging up for this process; `process` stands in every line."""
    out = stream or sys.stderr
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
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
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)


def get_logger(room: str) -> Logger:
    """A logger whose lines name the room they come from."""
    logger: Logger = structlog.get_logger(room=room)
    return logger
