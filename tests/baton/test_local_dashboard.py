"""The page of `baton up` where another process takes its port at the same moment."""

import contextlib
import socket
from collections.abc import Iterator

import httpx
import pytest

import dashboard.server
from baton.local_dashboard import start_dashboard
from baton.up_config import UpConfig
from runtime.clock import SystemClock
from runtime.http_server import listen

OPERATOR_URL = "http://127.0.0.1:1"  # nobody: the page says so


@pytest.fixture
def lost_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that is free when the page binds it, and taken when it begins to listen."""
    with contextlib.closing(listen("127.0.0.1", 0, "another process")) as other:
        port = int(other.getsockname()[1])

        def bound_just_before(host: str, wanted: int, what: str) -> socket.socket:
            found = listen(host, wanted, what)
            if wanted == port:
                other.listen()
            return found

        monkeypatch.setattr(dashboard.server, "listen", bound_just_before)
        monkeypatch.setattr("baton.local_dashboard.DEFAULT_PORT", port)
        yield port


async def test_a_free_port_is_taken_in_place_of_the_default(lost_port: int) -> None:
    page = await start_dashboard(UpConfig(), OPERATOR_URL, SystemClock())
    assert page is not None and page.port != lost_port
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.get(f"http://127.0.0.1:{page.port}/")
        assert answer.status_code == 200
    finally:
        await page.stop()


async def test_a_port_that_was_asked_for_is_told_to_be_taken(lost_port: int) -> None:
    with pytest.raises(OSError, match="the dashboard cannot listen: Address already in use"):
        await start_dashboard(UpConfig(dashboard_port=lost_port), OPERATOR_URL, SystemClock())
