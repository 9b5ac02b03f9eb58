"""Logs: a JSON object a line where nobody looks on, readable on a terminal, never in the way."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from runtime import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()


def fail() -> None:
    secret = "the client's prompt"
    try:
        raise RuntimeError(f"a bug, {len(secret)} characters in")
    except RuntimeError:
        log.get_logger("gateway").exception("failed", request_id="r1")


def test_a_line_is_an_object_with_the_process_the_room_and_the_traceback() -> None:
    out = io.StringIO()
    log.configure("gateway", stream=out)
    fail()
    line = json.loads(out.getvalue())
    assert (line["process"], line["room"], line["event"]) == ("gateway", "gateway", "failed")
    assert "RuntimeError: a bug, 19 characters in" in line["exception"]


def test_a_traceback_on_a_terminal_shows_no_variables() -> None:
    out = Terminal()
    log.configure("gateway", stream=out)
    fail()
    assert "RuntimeError: a bug" in out.getvalue()
    assert "the client's prompt" not in out.getvalue()


@pytest.mark.parametrize("kind", ["full", "closed"])
def test_a_log_that_cannot_be_written_fails_nobody(kind: str) -> None:
    out = FullDisk() if kind == "full" else io.StringIO()
    log.configure("gateway", stream=out)
    if kind == "closed":
        out.close()
        with pytest.raises(ValueError, match="closed"):
            out.write("x")
    fail()
    log.get_logger("gateway").info("goes on")


def test_lines_below_the_level_are_left_out() -> None:
    out = io.StringIO()
    log.configure("gateway", level="warning", stream=out)
    log.get_logger("gateway").info("small")
    log.get_logger("gateway").warning("large")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["large"]
