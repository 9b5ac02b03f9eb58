"""Two hosts: network namespaces with a link that is slow, lossy, cut or gone, and a far one."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

NUM_BLOCKS = 256
PATIENT = {"dead_after_s": 4.0, "lease_s": 6.0, "stall_s": 5.0, "slack_s": 20.0}
DELAY_S = 0.02


@dataclass
class Hosts:
    """Host `a` at 10.77.0.1, host `b` at 10.77.0.2, a veth between them."""

    name: str

    def on(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.name}-{host}"]

    def run(self, host: str, command: str) -> None:
        subprocess.run([*self.on(host), *command.split()], check=True, capture_output=True)

    def make(self) -> None:
        for host in "ab":
            subprocess.run(["ip", "netns", "add", f"{self.name}-{host}"], check=True)
        link = f"ip link add eth0 type veth peer name eth0 netns {self.name}-b"
        self.run("a", link)
        for number, host in enumerate("ab", start=1):
            self.run(host, "ip link set lo up")
            self.run(host, f"ip addr add 10.77.0.{number}/24 dev eth0")
            self.run(host, "ip link set eth0 up")

    def remove(self) -> None:
        for host in "ab":
            subprocess.run(["ip", "netns", "del", f"{self.name}-{host}"], capture_output=True)

    def limit(self, rate: str) -> None:
        self.run("a", f"tc qdisc replace dev eth0 root tbf rate {rate} burst 64k latency 100ms")

    def lose_one_percent(self) -> None:
        rules = (
            "add table ip lossy; add chain ip lossy in { type filter hook input priority 0; };"
            "add rule ip lossy in numgen random mod 100 < 1 drop"
        )
        for host in "ab":
            subprocess.run([*self.on(host), "nft", rules], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"network namespaces need root and iproute2, nftables; missing: {missing}")
    made = Hosts(f"kv{os.getpid()}")
    try:
        made.make()
        made.limit("1gbit")
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"this kernel has no network namespaces for us: {error.stderr}")
    yield made
    made.remove()


@pytest.fixture
def pair(hosts: Hosts, start: Callable) -> tuple:
    """A source on one host and a reader on the other."""
    source = start("source", prefix=hosts.on("a"), host="10.77.0.1", **PATIENT)
    reader = start("reader", prefix=hosts.on("b"), transport="auto", verify_share=1.0, **PATIENT)
    return source, reader


def pull(source, reader, export_id: int) -> None:
    reader.tell(do="fill", byte=0)
    assert reader.hear("filled")
    handle = source.publish(16 * NUM_BLOCKS, export_id)
    source.tell(do="complete", id=export_id)
    reader.tell(do="pull", handle=handle)


def assert_whole(source, reader, export_id: int) -> dict:
    result = reader.hear("result", timeout_s=60.0)
    assert (result["ok"], result["intact"], result["transport"]) == (True, True, "tcp"), result
    assert source.hear("released") == export_id
    return result


def test_a_slow_link_is_used_at_its_rate(hosts, pair):
    hosts.limit("100mbit")
    results = []
    for export_id in range(3):  # a process may have to wait for a core
        pull(*pair, export_id)
        results.append(assert_whole(*pair, export_id))
    least_s = results[0]["num_bytes"] / (100e6 / 8)
    shortest_s = min(result["transfer_s"] for result in results)
    assert 0.7 * least_s < shortest_s < 2.0 * least_s + 0.5


def test_one_percent_of_lost_packets_costs_time_and_no_byte(hosts, pair):
    hosts.lose_one_percent()
    for export_id in range(3):
        pull(*pair, export_id)
        assert_whole(*pair, export_id)


def test_a_cut_of_two_seconds_is_waited_out(hosts, pair):
    hosts.limit("20mbit")
    pull(*pair, 1)
    pair[1].wait_for_bytes()
    hosts.run("b", "ip link set eth0 down")
    time.sleep(2.0)
    hosts.run("b", "ip link set eth0 up")
    assert_whole(*pair, 1)


def test_a_black_hole_is_left_within_the_deadline_and_forgotten_when_it_is_over(hosts, pair):
    source, reader = pair
    hosts.limit("20mbit")
    pull(source, reader, 1)
    reader.wait_for_bytes()
    hosts.run("b", "ip route add blackhole 10.77.0.1/32")
    hosts.run("a", "ip route add blackhole 10.77.0.2/32")
    result = reader.hear("result")
    assert (result["ok"], result["reason"]) == (False, "peer_hung")
    assert source.hear("released") == 1  # at the latest when the lease ends
    hosts.run("b", "ip route del blackhole 10.77.0.1/32")
    hosts.run("a", "ip route del blackhole 10.77.0.2/32")
    hosts.limit("1gbit")
    pull(source, reader, 2)
    assert_whole(source, reader, 2)


class Relay:
    """Carries connections to a port and each byte `DELAY_S` late, in both directions."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for thread in self._threads[1:]:
            thread.join()
        for sock in [*self._sockets, self._listener]:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._to)
            for a, b in ((near, far), (far, near)):
                thread = threading.Thread(target=self._carry, args=(a, b))
                self._threads.append(thread)
                thread.start()
            self._sockets += [near, far]

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        """Bytes wait in the order of arrival; what comes meanwhile waits in the socket."""
        try:
            while data := source.recv(1 << 20):
                time.sleep(DELAY_S)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for sock in (source, target):
                sock.close()


def test_a_delay_of_twenty_milliseconds_costs_round_trips_and_no_byte(start):
    source = start("source")
    reader = start("reader", transport="tcp", verify_share=1.0)
    relay = None
    for export_id in range(2):
        handle = source.publish(64, export_id)
        relay = relay or Relay(handle["address"]["port"])
        handle["address"]["port"] = relay.port
        source.tell(do="complete", id=export_id)
        begin_s = time.monotonic()
        reader.tell(do="pull", handle=handle)
        assert_whole(source, reader, export_id)
        assert time.monotonic() - begin_s > 4 * DELAY_S
    reader.stop()
    relay.close()
