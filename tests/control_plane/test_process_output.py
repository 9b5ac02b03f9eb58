"""Where kept processes write."""

from pathlib import Path

import pytest

from control_plane.actuators import output
from control_plane.actuators.output import ProcessOutput


def test_the_last_line_is_the_last_one_with_something_on_it(tmp_path: Path):
    kept = ProcessOutput(tmp_path / "p.log")
    kept.write("first\n  second  \n\n\n")
    assert kept.last_line() == "second"


def test_the_last_line_of_an_earlier_start_does_not_count(tmp_path: Path):
    kept = ProcessOutput(tmp_path / "p.log")
    kept.write("earlier\n")
    kept.open().close()
    assert kept.last_line() == ""
    assert (tmp_path / "p.log").read_text() == "earlier\n"


def test_only_the_end_of_a_long_output_is_read(tmp_path: Path):
    kept = ProcessOutput(tmp_path / "p.log")
    kept.write("x" * 100_000 + "\nend")
    assert kept.last_line() == "end"


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"\0\n", "ünïcode\n".encode()])
def test_any_bytes_can_be_shown(tmp_path: Path, content: bytes):
    kept = ProcessOutput(tmp_path / "p.log")
    kept.open().close()
    (tmp_path / "p.log").write_bytes(content)
    assert kept.last_line() == content.decode(errors="replace").strip()


def test_a_large_log_is_moved_aside_before_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output, "_ROTATE_BYTES", 10)
    kept = ProcessOutput(tmp_path / "p.log")
    kept.write("more than ten bytes\n")
    kept.write("new\n")
    assert (tmp_path / "p.log").read_text() == "new\n"
    assert (tmp_path / "p.log.1").read_text() == "more than ten bytes\n"
    assert kept.last_line() == "new"


def test_a_removed_log_has_no_last_line(tmp_path: Path):
    kept = ProcessOutput(tmp_path / "p.log")
    kept.write("line\n")
    (tmp_path / "p.log").unlink()
    assert kept.last_line() == ""


def test_output_that_is_passed_through_has_no_last_line():
    kept = ProcessOutput(None)
    kept.open().close()
    assert kept.last_line() == ""
