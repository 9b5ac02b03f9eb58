"""Byte counts as people write them: 512MiB, 1.5GiB, 2GB."""

import re

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str) -> int:
    """The number of bytes that `text` names. Raises ValueError that shows what was written."""
    match = _PATTERN.fullmatch(text)
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size such as 512MiB or 2GB")
    return int(float(match.group(1)) * unit)


def format_bytes(num_bytes: int) -> str:
    """`num_bytes` in the largest binary unit that keeps it at 1 or more."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} B"
