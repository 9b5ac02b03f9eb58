"""What holds for the whole suite: nothing that a test started outlives it."""

from collections.abc import Iterator

import psutil
import pytest


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Every child of the test run has ended when the last test has."""
    yield
    left = [
        child.cmdline()
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
    ]
    # Python's own helper of `multiprocessing` lives as long as the process that has it.
    left = [words for words in left if not any("resource_tracker" in word for word in words)]
    assert not left, f"processes outlived the tests: {left}"
