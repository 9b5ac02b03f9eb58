"""Two real processes, and what the one does when the other is killed or frozen."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE_S = 20.0
NUM_BLOCKS = 256
QUICK = {"heartbeat_s": 0.1, "dead_after_s": 0.5, "lease_s": 1.0, "stall_s": 1.0, "slack_s": 5.0}
SLOW_LINK = 2e6  # bytes per second: a pool of 4 MiB takes two seconds


class Peer:
    """A child process that answers in JSON lines."""

    def __init__(self, role: str, **settings: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("peer_process.py")), role]
            + [json.dumps({**QUICK, **settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: queue.Queue[dict] = queue.Queue()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self.hear("ready")

    def tell(self, **command: object) -> None:
        self.process.stdin.write(json.dumps({"id": 0, **command}) + "\n")
        self.process.stdin.flush()

    def hear(self, what: str, timeout_s: float = PATIENCE_S):
        answer = self._answers.get(timeout=timeout_s)
        assert what in answer, answer
        return answer[what]

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> int:
        """Ends the process in its own way unless it was killed; gives its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
        self.process.stdin.close()
        status = self.process.wait(PATIENCE_S)
        self._listener.join()
        self.process.stdout.close()
        return status

    def _listen(self) -> None:
        for line in self.process.stdout:
            self._answers.put(json.loads(line))


@pytest.fixture
def start(nothing_is_left: None) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def begin(role: str, **settings: object) -> Peer:
        peers.append(Peer(role, **settings))
        return peers[-1]

    yield begin
    for peer in peers:
        assert peer.stop() in (0, -signal.SIGKILL)


def publish(source: Peer, ready_tokens: int, export_id: int = 1) -> dict:
    source.tell(do="publish", id=export_id, blocks=list(range(NUM_BLOCKS)), ready=ready_tokens)
    return source.hear("handle")


def wait_for_bytes(reader: Peer, until: Callable[..., None]) -> None:
    def seen() -> bool:
        reader.tell(do="seen")
        return bool(reader.hear("seen"))

    until(seen)


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_blocks_cross_between_processes(start, transport):
    source, reader = start("source", transport=transport), start("reader", transport=transport)
    handle = publish(source, 64)
    reader.tell(do="pull", handle=handle)
    source.tell(do="complete", id=1)
    result = reader.hear("result")
    assert (result["ok"], result["transport"], result["intact"]) == (True, transport, True)
    assert source.hear("released") == 1


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_a_killed_source_fails_its_readers_at_once(start, until, transport):
    source = start("source", transport=transport)
    reader = start("reader", transport=transport, dead_after_s=60, slack_s=60)
    reader.tell(do="pull", handle=publish(source, 64))
    wait_for_bytes(reader, until)
    source.signal(signal.SIGKILL)
    result = reader.hear("result", timeout_s=5.0)
    assert (result["ok"], result["reason"]) == (False, "peer_lost")
    successor = start("source", transport=transport)
    successor_handle = publish(successor, 64)
    successor.tell(do="complete", id=1)
    reader.tell(do="pull", handle=successor_handle)
    assert reader.hear("result")["intact"]


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_a_frozen_source_is_left(start, until, transport):
    source, reader = start("source", transport=transport), start("reader", transport=transport)
    reader.tell(do="pull", handle=publish(source, 64))
    wait_for_bytes(reader, until)
    source.signal(signal.SIGSTOP)
    result = reader.hear("result", timeout_s=5.0)
    assert (result["ok"], result["reason"]) == (False, "peer_hung")
    source.signal(signal.SIGCONT)
    assert source.hear("released") == 1


def test_a_source_frozen_in_the_middle_of_sending_is_left_too(start, until):
    source = start("source")
    reader = start("reader", transport="tcp", rate_bytes_s=SLOW_LINK, piece_bytes=1 << 16)
    handle = publish(source, 16 * NUM_BLOCKS)
    source.tell(do="complete", id=1)
    reader.tell(do="pull", handle=handle)
    wait_for_bytes(reader, until)
    source.signal(signal.SIGSTOP)
    result = reader.hear("result", timeout_s=10.0)
    assert result["reason"] in ("peer_hung", None)  # None: the kernel held all the bytes
    assert result["intact"] == result["ok"]


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_a_killed_reader_gives_its_blocks_back_before_the_lease_ends(start, until, transport):
    source = start("source", transport=transport, lease_s=600.0)
    reader = start("reader", transport=transport)
    reader.tell(do="pull", handle=publish(source, 64))
    wait_for_bytes(reader, until)
    reader.signal(signal.SIGKILL)
    assert source.hear("released", timeout_s=5.0) == 1


@pytest.mark.parametrize("transport", ["shm", "tcp", "nixl", "ucx"])
def test_a_frozen_reader_loses_its_lease_and_never_uses_what_it_reads_later(
    start, until, transport
):
    source = start("source", transport=transport)
    reader = start("reader", transport=transport, rate_bytes_s=SLOW_LINK, piece_bytes=1 << 16)
    handle = publish(source, 16 * NUM_BLOCKS)
    source.tell(do="complete", id=1)
    reader.tell(do="pull", handle=handle)
    wait_for_bytes(reader, until)
    reader.signal(signal.SIGSTOP)
    assert source.hear("released") == 1
    source.tell(do="reuse")
    assert source.hear("reused")
    reader.signal(signal.SIGCONT)
    result = reader.hear("result")
    assert not result["ok"]
    assert result["reason"] in ("lease_expired", "peer_lost")


def test_a_handle_that_nobody_reads_expires(start):
    source = start("source")
    publish(source, 64)
    assert source.hear("released", timeout_s=5.0) == 1
