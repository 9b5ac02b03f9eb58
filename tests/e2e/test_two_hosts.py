"""Prefill on one host and decode on another: the stream stays the reference's whatever the link
between them does. Hosts are network namespaces; the far link is a relay of packets."""

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import queue
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.lifecycle import free_port

NUM_TOKENS = 16
PROMPT_TOKENS = 2000  # 1.5 MB of KV
TOKEN = "a-cluster-token-for-tests"
DELAY_S = 0.02
PATIENCE_S = 60.0
LEFT_S = 5.0  # in which a source that hangs is left
LATE_S = 2.0  # of a process that waits for a core
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x1, 0x1000, 0x40000000


@dataclass
class Hosts:
    """Host `a` at 10.79.0.1, host `b` at 10.79.0.2."""

    name: str

    def on(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.name}-{host}"]

    def run(self, host: str, command: str) -> None:
        subprocess.run([*self.on(host), *command.split()], check=True, capture_output=True)

    def make(self) -> None:
        for host in "ab":
            subprocess.run(["ip", "netns", "add", f"{self.name}-{host}"], check=True)
            self.run(host, "ip link set lo up")

    def join(self) -> None:
        """A veth between them."""
        link = f"ip link add eth0 type veth peer name eth0 netns {self.name}-b"
        self.run("a", link)
        self.address()
        self.limit("1gbit")

    def address(self) -> None:
        for number, host in enumerate("ab", start=1):
            self.run(host, f"ip addr add 10.79.0.{number}/24 dev eth0")
            self.run(host, "ip link set eth0 up")

    def limit(self, rate: str) -> None:
        for host in "ab":
            tbf = f"tc qdisc replace dev eth0 root tbf rate {rate} burst 64k latency 100ms"
            self.run(host, tbf)

    def lose_one_percent(self) -> None:
        rules = (
            "add table ip lossy; add chain ip lossy in { type filter hook input priority 0; };"
            "add rule ip lossy in numgen random mod 100 < 1 drop"
        )
        for host in "ab":
            subprocess.run([*self.on(host), "nft", rules], check=True, capture_output=True)

    def lose_nothing(self) -> None:
        for host in "ab":
            self.run(host, "nft delete table ip lossy")

    def hole(self, verb: str) -> None:
        """verb: add or del, of a black hole in both directions."""
        for host, peer in (("a", 2), ("b", 1)):
            self.run(host, f"ip route {verb} blackhole 10.79.0.{peer}/32")

    def remove(self) -> None:
        for host in "ab":
            subprocess.run(["ip", "netns", "del", f"{self.name}-{host}"], capture_output=True)


def tun(namespace: str) -> int:
    """The descriptor of a new device eth0 in the namespace: each packet is one read or write."""
    made: queue.Queue[int | OSError] = queue.Queue()

    def open_there() -> None:  # a thread may change its namespace alone
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with open(f"/run/netns/{namespace}") as handle:
                if libc.setns(handle.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TUN | _IFF_NO_PI))
            made.put(fd)
        except OSError as error:
            made.put(error)

    thread = threading.Thread(target=open_there)
    thread.start()
    thread.join()
    fd = made.get()
    if isinstance(fd, OSError):
        raise fd
    return fd


class FarLink:
    """Carries packets between two devices, each DELAY_S late, in order."""

    def __init__(self, one: int, other: int) -> None:
        self._peer = {one: other, other: one}
        self._late: list[tuple[float, int, int, bytes]] = []  # when, number, to, packet
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="far-link")
        self._thread.start()

    def close(self) -> None:
        self._is_closing = True
        self._thread.join()
        for fd in self._peer:
            os.close(fd)

    def _run(self) -> None:
        number = 0
        while not self._is_closing:
            wait_s = min(0.1, self._late[0][0] - time.monotonic()) if self._late else 0.1
            for fd in select.select(list(self._peer), [], [], max(0.0, wait_s))[0]:
                with contextlib.suppress(BlockingIOError):
                    packet = os.read(fd, 1 << 16)
                    number += 1
                    late = (time.monotonic() + DELAY_S, number, self._peer[fd], packet)
                    heapq.heappush(self._late, late)
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(self._late)
                with contextlib.suppress(OSError):  # a full queue loses it, as a router does
                    os.write(to, packet)


@dataclass
class Streams:
    """Control plane, decode and a client on host a, prefill on host b."""

    hosts: Hosts
    folder: Path
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    answers: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)
    num_asked: int = 0
    listener: threading.Thread | None = None

    def start(self, model: Path) -> None:
        port = free_port()
        control = f"10.79.0.1:{port}"
        flags = ["--port", str(port), "--settle-s", "0", "--http-port", "-1"]
        self._spawn("control", "a", "-m", "baton", "control", "--host", "10.79.0.1", *flags)
        common = ["--model", str(model), "--kv-memory", "32MiB", "--threads", "1"]
        common += ["--control-address", control, "--expected-bytes-s", "4e5"]
        common += ["--verify-share", "1", "--lease-s", "6"]
        for role, host, number in (("prefill", "b", 2), ("decode", "a", 1)):
            here = ["--host", f"10.79.0.{number}", "--worker-id", role]
            self._spawn(role, host, "-m", "baton", role, *common, *here)
        client = str(Path(__file__).with_name("stream_client.py"))
        self._spawn("client", "a", client, control, TOKEN, "2")
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        self.hear("ready")

    def begin(self, prompt: Sequence[int]) -> None:
        """Returns when the first token is there; the transfer then takes its time."""
        self.num_asked += 1
        asked = {"number": self.num_asked, "prompt": list(prompt), "max_tokens": NUM_TOKENS}
        stdin = self.processes["client"].stdin
        assert stdin is not None
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        self.hear("first")

    def hear(self, what: str) -> dict[str, Any]:
        answer = self.answers.get(timeout=PATIENCE_S)
        assert what in answer, (answer, self.logs())
        return answer

    def logs(self) -> str:
        return "\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.log"))

    def left_since(self, begin: datetime) -> list[dict[str, Any]]:
        """What decode said of links that ended."""
        lines = (self.folder / "decode.log").read_text().splitlines()
        said = [json.loads(line) for line in lines if '"kv link ended"' in line]
        return [line for line in said if datetime.fromisoformat(line["timestamp"]) >= begin]

    def stop(self) -> None:
        """The client first, and the workers with SIGTERM: each ends in its own way."""
        for name in ("client", "decode", "prefill", "control"):
            process = self.processes.get(name)
            if process is None:
                continue
            if name == "client" and process.stdin is not None:
                process.stdin.close()
            else:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(PATIENCE_S)
            finally:
                process.kill()
            assert status == 0, (name, self.logs())

    def _spawn(self, name: str, host: str, *words: str) -> None:
        pipe = subprocess.PIPE if name == "client" else subprocess.DEVNULL
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [*self.hosts.on(host), sys.executable, *words],
                env={**os.environ, "BATON_CLUSTER_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                text=True,
            )

    def _listen(self) -> None:
        stdout = self.processes["client"].stdout
        assert stdout is not None
        for line in stdout:
            self.answers.put(json.loads(line))


def _hosts(name: str) -> Hosts:
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"network namespaces need root and iproute2, nftables; missing: {missing}")
    hosts = Hosts(f"{name}{os.getpid()}")
    try:
        hosts.make()
    except subprocess.CalledProcessError as error:
        hosts.remove()
        pytest.skip(f"this kernel has no network namespaces for us: {error.stderr}")
    return hosts


@contextlib.contextmanager
def _streams(hosts: Hosts, folder: Path, model: Path) -> Iterator[Streams]:
    streams = Streams(hosts, folder)
    try:
        streams.start(model)
        yield streams
        streams.stop()
    finally:
        for process in streams.processes.values():
            process.kill()
            process.wait()
        if streams.listener is not None:
            streams.listener.join()
        for process in streams.processes.values():
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture(scope="module")
def near(
    model_directory: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Streams]:
    """Two hosts side by side."""
    hosts = _hosts("near")
    try:
        hosts.join()
        folder = tmp_path_factory.mktemp("near")
        with _streams(hosts, folder, model_directory("qwen3")) as streams:
            yield streams
    finally:
        hosts.remove()


@pytest.fixture
def ask(
    prompt_of: Callable[[int, int], tuple[int, ...]],
    reference: Callable[[str, Sequence[int], int], list[int]],
) -> Callable[..., dict[str, Any]]:
    """A function that asks for an answer to a new prompt, lets something happen while its KV is on
    the way, and checks the tokens."""

    def run(streams: Streams, seed: int, happens: Callable[[], None] = lambda: None) -> Any:
        prompt = prompt_of(PROMPT_TOKENS, 7000 + seed)
        streams.begin(prompt)
        happens()
        answer = streams.hear("tokens")
        assert answer["tokens"] == reference("qwen3", prompt, NUM_TOKENS), answer
        return answer

    return run


def meet(streams: Streams, ask: Any) -> None:
    """Until KV crosses: the workers may have to find each other again."""
    deadline_s = time.monotonic() + PATIENCE_S
    answer = ask(streams, 1000 + streams.num_asked)
    while answer["failure"] or answer["kind"] != "remote":
        assert time.monotonic() < deadline_s, answer
        answer = ask(streams, 1000 + streams.num_asked)


def test_a_stream_over_two_hosts_is_the_reference_s(near: Streams, ask: Any) -> None:
    answer = ask(near, 1)
    assert (answer["kind"], answer["failure"], answer["attempts"]) == ("remote", "", 1)


def test_a_stream_over_a_slow_link_is_the_reference_s(near: Streams, ask: Any) -> None:
    near.hosts.limit("8mbit")
    answer = ask(near, 2)
    near.hosts.limit("1gbit")
    assert (answer["kind"], answer["failure"]) == ("remote", "")
    assert answer["transfer_s"] > 0.5


def test_lost_packets_change_no_token(near: Streams, ask: Any) -> None:
    near.hosts.lose_one_percent()
    answers = [ask(near, 10 + at) for at in range(3)]
    near.hosts.lose_nothing()
    assert [(answer["kind"], answer["failure"]) for answer in answers] == [("remote", "")] * 3


def test_a_cut_of_two_seconds_changes_no_token(near: Streams, ask: Any) -> None:
    ask(near, 19)  # they have met: else connecting waits the cut out, and nothing is cut
    near.hosts.limit("4mbit")

    def cut() -> None:
        near.hosts.run("b", "ip link set eth0 down")
        time.sleep(2.0)
        near.hosts.run("b", "ip link set eth0 up")
        near.hosts.limit("1gbit")

    answer = ask(near, 20, cut)
    assert (answer["kind"], answer["failure"]) == ("remote", "")
    assert answer["transfer_s"] > 2.0


@pytest.mark.slow
def test_a_black_hole_is_left_and_the_answer_goes_on(near: Streams, ask: Any) -> None:
    near.hosts.limit("4mbit")
    begin_s = time.monotonic()
    answer = ask(near, 30, lambda: near.hosts.hole("add"))
    assert time.monotonic() - begin_s < 12.0
    assert answer["failure"], answer
    near.hosts.hole("del")
    near.hosts.limit("1gbit")
    meet(near, ask)


@pytest.mark.slow
def test_a_source_that_hangs_is_left_and_what_it_writes_later_harms_nothing(
    near: Streams, ask: Any
) -> None:
    prefill = near.processes["prefill"]
    stopped = datetime.now(UTC)

    def hang() -> None:
        nonlocal stopped
        prefill.send_signal(signal.SIGSTOP)
        stopped = datetime.now(UTC)

    try:
        for attempt in range(3):  # until something is on its way when the source stops
            prefill.send_signal(signal.SIGCONT)
            near.hosts.limit("1gbit")
            meet(near, ask)
            near.hosts.limit("4mbit")
            answer = ask(near, 50 + attempt, hang)
            if answer["failure"]:
                break
        assert answer["failure"], answer
        (line,) = near.left_since(stopped)
        assert line["reason"] == "peer_hung"
        left_s = (datetime.fromisoformat(line["timestamp"]) - stopped).total_seconds()
        assert left_s < LEFT_S + LATE_S, f"left after {left_s:.2f} s"
        print(f"left {left_s:.2f} s after SIGSTOP")
    finally:
        prefill.send_signal(signal.SIGCONT)
    near.hosts.limit("1gbit")
    for at in range(4):  # over the blocks that late bytes would hit
        ask(near, 60 + at)


@pytest.mark.slow
def test_a_link_of_twenty_milliseconds_changes_no_token(
    ask: Any, model_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    hosts = _hosts("far")
    try:
        link = FarLink(tun(f"{hosts.name}-a"), tun(f"{hosts.name}-b"))
    except OSError as error:
        hosts.remove()
        pytest.skip(f"no TUN devices for us: {error}")
    try:
        hosts.address()
        with _streams(hosts, tmp_path, model_directory("qwen3")) as streams:
            answers = [ask(streams, 80 + at) for at in range(3)]
        assert [(a["kind"], a["failure"]) for a in answers] == [("remote", "")] * 3
        assert all(answer["transfer_s"] > 2 * DELAY_S for answer in answers)
    finally:
        link.close()
        hosts.remove()
