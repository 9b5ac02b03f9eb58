"""The operators' commands against a cluster of processes without a model."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.lifecycle import free_port

BATON = (sys.executable, "-m", "baton")
FAKE_BATON = (sys.executable, str(Path(__file__).parent / "fake_baton.py"))
TIMEOUT_S = 60.0
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def baton(whole_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs `baton` beside a cluster with 1 prefill and 2 decode workers and a quota of 4."""
    state_dir = tmp_path_factory.mktemp("state")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("BATON_")}
    environ["BATON_STATE_DIR"] = str(state_dir)

    def run(
        *words: str, program: tuple[str, ...] = BATON, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={**environ, **variables},
        )

    ports = ("--port", str(free_port()), "--control-port", "0")
    pools = ("--prefill", "1", "--decode", "2", "--max-workers", "4")
    # a detached cluster starts `python -m baton`: the stand-in stays in the foreground instead
    words = [*FAKE_BATON, "up", "--model", str(whole_model), *ports, *pools]
    with subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: run("status").returncode == 0 and len(workers(run)) == 3)
            yield run
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def workers(run: Run) -> dict[str, str]:
    found = run("status", "--json")
    if found.returncode:
        return {}
    entries = json.loads(found.stdout)["workers"]
    return {entry["info"]["worker_id"]: entry["info"]["role"] for entry in entries}


def pids(run: Run) -> dict[str, int]:
    entries = json.loads(run("status", "--json").stdout)["workers"]
    return {entry["info"]["worker_id"]: entry["info"]["pid"] for entry in entries}


def wait_until(wanted: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not wanted():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_ratio_is_shown_then_done_then_given_back(baton: Run):
    tried = baton("ratio", "2:1", "--dry-run")
    assert "would flip decode-0 to prefill" in tried.stdout, tried.stderr
    done = baton("ratio", "2:1", "--reason", "long prompts")
    assert "pinned at 2P1D" in done.stdout, done.stderr
    wait_until(lambda: list(workers(baton).values()).count("prefill") == 2)
    assert "pinned at 2P1D" in baton("status").stdout
    assert baton("unpin").returncode == 0
    baton("ratio", "1:2")
    wait_until(lambda: list(workers(baton).values()).count("prefill") == 1)


def test_a_flip_is_written_down_and_a_refusal_is_told(baton: Run):
    flipped = baton("flip", "decode-1", "prefill", "--reason", "a trial")
    assert "decode-1 is a prefill worker after" in flipped.stdout, flipped.stderr
    assert "decode-1 is a decode worker" in baton("flip", "decode-1", "decode").stdout
    unknown = baton("flip", "decode-9", "prefill")
    assert unknown.returncode == 1 and "no worker 'decode-9' is live" in unknown.stderr


def test_workers_are_added_within_the_quota_and_removed(baton: Run):
    assert "add 1 decode worker" in baton("add", "decode").stdout
    wait_until(lambda: len(workers(baton)) == 4)
    refused = baton("add", "prefill")
    assert refused.returncode == 1
    assert "the quota of this host is 4 workers and 4 are kept" in refused.stderr
    assert baton("drain", "decode-2", "--remove").returncode == 0
    wait_until(lambda: len(workers(baton)) == 3)


def test_a_drained_worker_is_started_again(baton: Run):
    before = pids(baton)
    assert "decode-1 drains" in baton("drain", "decode-1").stdout

    wait_until(lambda: pids(baton).get("decode-1", before["decode-1"]) != before["decode-1"])


def test_a_pause_is_shown_and_resumed(baton: Run):
    baton("pause")
    assert "paused by" in baton("status").stdout
    baton("resume")
    assert "paused by" not in baton("status").stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("ratio", "two"), 2, "'two' is not prefill:decode"),
        (("ratio", "0:0"), 1, "0:0 is no ratio (0:1 or more)"),
        (("drain", "nobody"), 1, "no worker 'nobody' is live"),
        (("add", "decode", "200000"), 1, "Expected `int` <= 10000"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(
    baton: Run, words: tuple[str, ...], code: int, message: str
):
    done = baton(*words)
    assert done.returncode == code
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_decisions_are_shown_or_said_to_be_none(baton: Run):
    assert baton("decisions").returncode == 0
    assert "decisions" in json.loads(baton("decisions", "--json").stdout)


def test_a_wrong_token_is_refused_and_a_wrong_address_named(baton: Run):
    refused = baton("pause", BATON_OPERATOR_TOKEN="wrong")
    assert (refused.returncode, "no valid operator token" in refused.stderr) == (1, True)
    url = f"http://127.0.0.1:{free_port()}"
    lost = baton("pause", "--url", url)
    assert lost.returncode == 1 and f"{url} does not answer" in lost.stderr


def test_without_a_cluster_the_command_says_how_to_name_one(baton: Run, tmp_path: Path):
    done = baton("pause", BATON_STATE_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "no cluster runs here; --url names one elsewhere" in done.stderr
