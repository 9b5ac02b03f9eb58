"""The whole suite: nothing that a test started outlives it; a real Redis for those that ask."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
import structlog
from hypothesis import HealthCheck, settings

from runtime.lifecycle import free_port

# A busy machine is no defect.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


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


@pytest.fixture(autouse=True)
def logs_are_as_at_the_start() -> Iterator[None]:
    """A command that ran in this process has set levels and renderers for those after it."""
    structlog.reset_defaults()
    # The default shows every local variable of a traceback, which takes seconds on a busy machine.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])
    yield


class RedisServer:
    """A real redis-server on its own port, without persistence; it can be started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        words += ["--appendonly", "no", "--dir", str(self.directory)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        with redis.Redis(port=self.port, retry=_patient()) as client:
            client.ping()

    def stop(self) -> None:
        """Kill it, as a crash does; what it held is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _patient() -> redis.retry.Retry:
    return redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), retries=500)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running server with nothing in it."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
