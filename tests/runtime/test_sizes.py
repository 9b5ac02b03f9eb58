"""Sizes are read and written as people do."""

import pytest

from runtime.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("512", 512),
        ("1KiB", 1024),
        ("1.5 GiB", 3 << 29),
        ("2GB", 2 * 10**9),
        ("3mib", 3 << 20),
    ],
)
def test_a_size_is_read(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XB", "1e9", "12 34"])
def test_what_is_no_size_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


def test_a_size_is_written_in_the_largest_unit() -> None:
    sizes = (1, 1 << 10, 3 << 19, 1 << 31)
    assert [format_bytes(n) for n in sizes] == ["1 B", "1.0 KiB", "1.5 MiB", "2.0 GiB"]
