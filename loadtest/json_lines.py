"""Files of one JSON object a line, refused by line before any load is sent."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from loadtest.errors import LineError, LoadtestError

Row = TypeVar("Row")


def read_rows(
    path: Path, what: str, row_type: type[Row], wrong: Callable[[Row, Row | None], str]
) -> list[Row]:
    """All rows; empty lines do not count.

    what: the file, in messages. wrong: why a row behind the one before it cannot be used, empty
    when it can. Raises LineError for the first line that cannot be used, LoadtestError for a file
    that cannot be read or has none.
    """
    decoder = msgspec.json.Decoder(row_type)
    rows: list[Row] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LoadtestError(f"cannot read the {what} {path}: {error.strerror}") from error
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LineError(path, line_number, str(error)) from error
        if reason := wrong(row, rows[-1] if rows else None):
            raise LineError(path, line_number, reason)
        rows.append(row)
    if not rows:
        raise LoadtestError(f"the {what} {path} has no lines")
    return rows
