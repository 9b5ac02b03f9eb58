"""What went wrong in other servers that split prefill from decode does not go wrong here."""

import itertools
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import baton
from wire.messages import Role

MODEL = Path(baton.__file__).parent / "demo_model"
PATH = "/v1/completions"
WORDS = "Baton hands the cache from the prefill pool to the decode pool. " * 6


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Any]) -> Iterator[Any]:
    started = start_cluster(MODEL)
    yield started
    started.stop()


@pytest.fixture
def ask(cluster: Any) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=cluster.url, timeout=60) as client:

        def send(prompt: str, stream: bool = False, **fields: Any) -> httpx.Response:
            body = {"model": MODEL.name, "prompt": prompt, "temperature": 0, **fields}
            if stream:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            return client.post(PATH, json=body)

        yield send


def answer_of(response: httpx.Response, stream: bool) -> tuple[str, dict[str, Any], Any]:
    """The text, the usage, and the last finish reason."""
    assert response.status_code == 200, response.text
    if not stream:
        body = response.json()
        return body["choices"][0]["text"], body["usage"], body["choices"][0]["finish_reason"]
    events = [
        json.loads(block.removeprefix("data: "))
        for block in response.text.split("\n\n")
        if block.startswith("data: {")
    ]
    choices = [choice for event in events for choice in event["choices"]]
    text = "".join(choice["text"] for choice in choices)
    return text, events[-1]["usage"], choices[-1]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_without_max_tokens_the_answer_is_not_prefills_one_token(ask: Any, stream: bool) -> None:
    text, usage, reason = answer_of(ask(f"{stream} one {WORDS}", stream), stream)
    assert usage["completion_tokens"] > 1 and text
    assert reason in ("stop", "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{"min_tokens": 40}, {"ignore_eos": True}])
def test_min_tokens_and_streaming_do_not_reach_prefill(
    ask: Any, stream: bool, fields: dict[str, Any]
) -> None:
    """A prefill that obeyed them would compute the answer itself, and its tokens would be lost
    or come twice.
    """
    prompt = f"{stream} {sorted(fields)} two {WORDS}"
    _, usage, reason = answer_of(ask(prompt, stream, max_tokens=40, **fields), stream)
    assert (usage["completion_tokens"], reason) == (40, "length")


def test_a_streams_tokens_come_as_they_are_made(cluster: Any) -> None:
    """Many have come while the answer is far from its end: nobody holds them back until then."""
    body = {
        "model": MODEL.name, "prompt": f"three {WORDS}", "max_tokens": 3000, "ignore_eos": True,
        "stream": True, "temperature": 0,
    }  # fmt: skip
    with httpx.stream("POST", f"{cluster.url}{PATH}", json=body, timeout=60) as response:
        events = (line for line in response.iter_lines() if line.startswith("data: {"))
        first = [json.loads(next(events).removeprefix("data: ")) for _ in range(20)]
        metrics = httpx.get(f"{cluster.url}/metrics", timeout=60).text
    assert all(event["choices"][0]["finish_reason"] is None for event in first)
    assert re.search("^baton_requests_in_flight 1.0$", metrics, re.MULTILINE)


def cached_and_workers(
    cluster: Any, ask: Any, prompt: str, stream: bool
) -> tuple[int, int, list[str]]:
    """The prompt's tokens that were cached, all of them, and who had its KV, computer first."""
    response = ask(prompt, stream, max_tokens=4)
    _, usage, _ = answer_of(response, stream)
    request_id = response.headers["x-request-id"]
    trace = httpx.get(f"{cluster.url}/debug/requests/{request_id}", timeout=60).json()
    workers = [name for name in (trace["prefill_worker"], trace["decode_worker"]) if name]
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"], workers


@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_are_what_was_found_and_not_what_prefill_handed_over(
    cluster: Any, ask: Any, stream: bool
) -> None:
    """What was just slow may be given to another worker the second time, which has nothing."""
    for number in range(20):
        prompt = f"{stream} {number} four {WORDS}"
        cold, _, had_it = cached_and_workers(cluster, ask, prompt, stream)
        warm, num_tokens, asked = cached_and_workers(cluster, ask, prompt, stream)
        assert cold < 16
        if asked[0] in had_it:
            assert 0 < warm < num_tokens
            return
    pytest.fail("no prompt came to a worker that had it")


def placements(cluster: Any, kind: str) -> float:
    text = httpx.get(f"{cluster.url}/metrics", timeout=60).text
    found = re.search(rf'^baton_placements_total{{kind="{kind}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_prefill_pool_that_is_lost_shows_and_no_answer_is_empty(cluster: Any, ask: Any) -> None:
    """The last test of the cluster: its prefill worker is struck while requests come.

    The decode worker may be the sooner one for a prompt: some at once make both of use, and until
    the other is known to be lost they may stay with it by choice.
    """
    remote, deadline_s = placements(cluster, "remote"), time.monotonic() + 60
    with ThreadPoolExecutor(4) as pool:
        for number in itertools.count():
            prompts = [f"{number} {one} five {WORDS}" for one in range(4)]
            answers = pool.map(lambda prompt: answer_of(ask(prompt, max_tokens=4), False), prompts)
            assert all(text for text, _, _ in answers)
            if placements(cluster, "remote") > remote:
                break
            assert time.monotonic() < deadline_s
    cluster.signal_workers(Role.PREFILL, signal.SIGSTOP)
    deadline_s = time.monotonic() + 60
    try:
        for number in itertools.count():
            response = ask(f"{number} six {WORDS}", True, max_tokens=8, ignore_eos=True)
            text, usage, reason = answer_of(response, True)
            assert text and (usage["completion_tokens"], reason) == (8, "length")
            if '"kind":"degraded"' in response.text:
                break
            assert time.monotonic() < deadline_s
        assert placements(cluster, "degraded") > 0
    finally:
        cluster.signal_workers(Role.PREFILL, signal.SIGCONT)
