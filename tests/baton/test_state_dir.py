"""What `baton up` leaves for `baton down` and `baton status`."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from baton.state_dir import AlreadyRunning, ClusterState, StateDir, process_start


@pytest.fixture
def state_dir(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state")


@pytest.fixture
def state() -> ClusterState:
    return ClusterState(
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        http_url="http://127.0.0.1:8000",
        control_address="127.0.0.1:8090",
        cluster_token="secret",
        model="m",
        log_dir="/tmp",
    )


def test_the_state_of_a_running_process_is_found(state_dir: StateDir, state: ClusterState):
    state_dir.create()
    assert state_dir.running() is None
    state_dir.write(state)
    assert state_dir.running() == state
    state_dir.clear()
    assert state_dir.running() is None


def test_a_later_process_with_the_same_pid_is_not_taken_for_the_cluster(
    state_dir: StateDir, state: ClusterState
):
    state_dir.create()
    state_dir.write(replace(state, process_start="ticks 1"))
    assert state_dir.running() is None


def test_a_process_that_has_ended_is_not_running(state_dir: StateDir, state: ClusterState):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ended = replace(state, pid=process.pid, process_start=process_start(process.pid))
        process.kill()
        process.wait()
    state_dir.create()
    state_dir.write(ended)
    assert state_dir.running() is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b"\xff"])
def test_a_damaged_state_file_counts_as_nothing(state_dir: StateDir, content: bytes):
    state_dir.create()
    (state_dir.path / "cluster.json").write_bytes(content)
    assert state_dir.running() is None


def test_the_token_is_readable_by_its_owner_only(state_dir: StateDir, state: ClusterState):
    state_dir.create()
    state_dir.write(state)
    assert (state_dir.path / "cluster.json").stat().st_mode & 0o077 == 0
    assert state_dir.path.stat().st_mode & 0o077 == 0


def test_a_folder_has_one_owner_at_a_time(state_dir: StateDir, state: ClusterState):
    with state_dir.acquire():
        state_dir.write(state)
        with pytest.raises(AlreadyRunning, match="http://127.0.0.1:8000"):
            state_dir.acquire()
    state_dir.acquire().close()
