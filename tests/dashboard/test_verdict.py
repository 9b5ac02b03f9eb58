"""The verdict in words, as the page's own module gives it."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest


@pytest.fixture(scope="module")
def files_url() -> Iterator[str]:
    """The page's files alone: what they show needs no cluster."""
    folder = Path(__file__).parents[2] / "dashboard" / "static"
    handler = partial(QuietFiles, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written."""


@pytest.fixture(scope="module")
def plain_page(browser: Any, files_url: str) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{files_url}/style.css")
    yield page
    context.close()


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("a lost control plane goes first", {"link": "lost"}, "bad", "cannot be reached"),
    ("no worker", {"prefill": 0, "decode": 0}, "bad", "No worker is live"),
    ("one pool is empty", {"prefill": 0}, "warn", "No prefill worker is live"),
    ("a silent worker", {"silent": 1}, "bad", "1 of 5 workers are silent"),
    ("prefill is pressed", {"pressure": [1.4, 0.5]}, "warn", "Prefill is the bottleneck"),
    ("decode is pressed", {"pressure": [0.4, 1.2]}, "warn", "Decode is the bottleneck"),
    ("memory is full", {"kv": 0.95}, "warn", "KV memory is 95 % full"),
    ("first tokens are late", {"ttft": 0.9}, "warn", "first tokens come too late"),
    ("most tokens are slow", {"tpot": 0.5}, "bad", "tokens come too slowly"),
    ("a worker flips", {"flipping": 1}, "calm", "The pools are changing: 1 flipping"),
    ("all is well", {}, "good", "Balanced: 2P : 3D carry 4.00 requests a second"),
    ("nobody asks", {"requests": 0}, "calm", "Idle: 2P : 3D"),
]

RUN = """async (given) => {
  const { verdict } = await import("/js/verdict.js");
  const pool = (role, actual) => ({ role, actual, kv_use: role === "decode" ? given.kv ?? 0.2 : 0.1,
    flipping: role === "decode" ? given.flipping ?? 0 : 0, draining: 0 });
  const [p, d] = given.pressure ?? [0.5, 0.5];
  return verdict({
    link: given.link ?? "live",
    status: { pools: [pool("prefill", given.prefill ?? 2), pool("decode", given.decode ?? 3)] },
    traffic: { requests_s: given.requests ?? 4, in_flight: 0, ttft_attained: given.ttft ?? 1,
      tpot_attained: given.tpot ?? 1 },
    decision: { prefill: 2, decode: 3, inputs: { pressure_prefill: p, pressure_decode: d } },
    workers: [0, 1, 2, 3, 4].map((i) => ({
      state: i < (given.silent ?? 0) ? "silent" : "serving" })),
  });
}"""


@pytest.mark.parametrize("name, given, level, words", CASES, ids=[case[0] for case in CASES])
def test_the_most_urgent_is_said(
    plain_page: Any, name: str, given: dict[str, Any], level: str, words: str
) -> None:
    said = plain_page.evaluate(RUN, given)
    assert said["level"] == level
    assert words in said["line"]


def test_holds_and_advice_that_say_the_same_stand_as_one(plain_page: Any) -> None:
    groups = plain_page.evaluate("""async () => {
      const { grouped } = await import("/js/decisions.js");
      const hold = (id) => ({ id, at_s: id, prefill: 1, decode: 1, acted: false,
        steps: [{ kind: "hold", reason: `prefill at 0.${id}`, role: "", count: 0 }] });
      const flip = (id) => ({ ...hold(id), acted: true,
        steps: [{ kind: "flip", reason: "more", role: "decode", count: 0 }] });
      return grouped([hold(6), flip(5), flip(4), hold(3), hold(2)])
        .map(({ first, last }) => [first.id, last.id]);
    }""")
    assert groups == [[6, 6], [5, 5], [4, 4], [2, 3]]
