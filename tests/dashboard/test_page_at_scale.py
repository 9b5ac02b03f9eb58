"""The page with 1,000 workers and 15 minutes of history."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# Scrolls the workers for 8 s while events come, and counts the frames that were drawn.
FRAMES = """async () => {
  const grid = document.querySelector("#workers-table");
  const times = [];
  let down = 0;
  await new Promise((done) => {
    const began = performance.now();
    const step = (now) => {
      times.push(now);
      down = (down + 90) % grid.scrollHeight;
      grid.scrollTop = down;
      if (now - began < 8000) requestAnimationFrame(step);
      else done();
    };
    requestAnimationFrame(step);
  });
  const gaps = times.slice(1).map((t, i) => t - times[i]).sort((a, b) => a - b);
  return { fps: (1000 * gaps.length) / (times.at(-1) - times[0]),
           p95_ms: gaps[Math.floor(0.95 * gaps.length)], worst_ms: gaps.at(-1),
           rows: document.querySelectorAll(".grid-row").length };
}"""


@pytest.fixture(scope="module")
def crowd_url() -> Iterator[str]:
    script = Path(__file__).with_name("thousand_workers.py")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdin
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


def fifteen_minutes(route: Any) -> None:
    """The control plane is younger than that: its history is as long as it would be."""
    answer = route.fetch()
    found = answer.json()
    end_s = (found["at_s"] or [1.7e9])[-1]
    found["at_s"] = [end_s - 5 * i for i in reversed(range(180))]
    found["series"] = {name: [float((7 * i) % 60) for i in range(180)] for name in found["series"]}
    route.fulfill(response=answer, json=found)


def test_a_thousand_workers_are_shown_at_thirty_frames_a_second(
    crowd_url: str, look: Callable[..., Any]
) -> None:
    one = look(crowd_url)
    one.page.route("**/api/v1/history*", fifteen_minutes)
    one.page.locator("#workers-count", has_text="1,000 workers").wait_for(timeout=20_000)
    one.page.locator("#chart-load canvas").first.wait_for(timeout=20_000)
    found = one.page.evaluate(FRAMES)
    print(found)
    assert found["rows"] < 60, "only the rows that can be seen exist"
    assert found["fps"] >= 30, found
    assert not one.complaints
