"""A real cluster with its page, and a headless Chromium that looks at it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from runtime.lifecycle import free_port

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OPERATOR_TOKEN = "operator-secret"
expect.set_options(timeout=30_000)


@dataclass
class Served:
    """A running `baton up` with its dashboard."""

    process: subprocess.Popen[bytes]
    api: str
    url: str
    log: Path

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()[-3000:]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Modelled workers: two of prefill, two of decode, which compute nothing."""
    state = tmp_path_factory.mktemp("dashboard")
    port, control, page = free_port(), free_port(), free_port()
    words = ["-m", "baton", "up", "--profile", "llama-3.1-8b@h200", "--prefill", "2"]
    words += ["--decode", "2", "--port", str(port), "--control-port", str(control)]
    words += ["--dashboard-port", str(page)]
    environment = {
        **os.environ,
        "BATON_STATE_DIR": str(state),
        "BATON_OPERATOR_TOKEN": OPERATOR_TOKEN,
    }
    log = state / "up.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=sink, stderr=sink
        )
    cluster = Served(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{page}", log)
    deadline = time.monotonic() + 90
    while b"stops it." not in log.read_bytes():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("/usr/bin/chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Look:
    """A page, what its console said, and where its requests went."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Look]]:
    """A function that opens a page in a browser context of its own and waits until it is live."""
    with contextlib.ExitStack() as contexts:

        def open_page(
            url: str, width: int = 1360, height: int = 900, scheme: str = "light"
        ) -> Look:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            contexts.callback(context.close)
            one = Look(context.new_page())
            one.watch()
            one.page.goto(url)
            one.page.locator("#link[data-state=live]").wait_for(timeout=30_000)
            return one

        yield open_page


def complete(cluster: Served, prompt_tokens: int = 600, max_tokens: int = 8) -> str:
    """Runs one request on the cluster and gives its id."""
    body = {
        "model": "llama-3.1-8b@h200",
        "prompt": [5 + i % 400 for i in range(prompt_tokens)],
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }
    answer = httpx.post(f"{cluster.api}/v1/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    found = re.search(r'"id":\s*"([^"]+)"', answer.text)
    assert found
    return found.group(1)


@pytest.fixture(scope="session")
def ask_cluster() -> Callable[..., str]:
    return complete
