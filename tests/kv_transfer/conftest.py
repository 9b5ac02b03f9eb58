"""A source and a reader in one process, and the check that they leave nothing behind."""

import contextlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.pull import PullResult
from kv_transfer.transports.faulty import Faults, with_faults
from kv_transfer.transports.memory import MemoryHub
from kv_transfer.transports.registry import TRANSPORTS, Transports
from runtime.clock import Clock, SystemClock
from wire.kv import KVHandle, KVLayout

SECRET = b"a cluster's secret"
PATIENCE_S = 30.0

HURRY = 60.0  # the pace of a peer's clock that is to see a time-out
# Of peers: times that no slow host reaches, unless a peer's clock hurries. stall_s is the kernel's.
PATIENT = {
    "heartbeat_s": 0.1,
    "dead_after_s": 60.0,
    "lease_s": 60.0,
    "stall_s": 30.0,
    "slack_s": 600.0,
    "connect_s": 30.0,
}

Pool = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]


@dataclass
class Side:
    """One pool: `view` is [num_layers, num_blocks, region_bytes]."""

    layout: KVLayout
    memory: KVMemory
    view: Pool

    @classmethod
    def make(
        cls,
        layout: KVLayout,
        seed: int | None,
        allocate: Callable[[int], KVMemory] = KVMemory.allocate,
    ) -> "Side":
        memory = allocate(layout.pool_bytes)
        flat = np.frombuffer(memory.buffer, np.uint8)
        if seed is not None:
            flat[:] = np.random.default_rng(seed).integers(0, 256, flat.size, dtype=np.uint8)
        shape = (layout.num_layers, layout.num_blocks, layout.region_bytes)
        return cls(layout, memory, flat.reshape(shape))

    def close(self) -> None:
        self.view = np.zeros((0, 0, 0), np.uint8)
        self.memory.close()


@dataclass
class Rig:
    """Exporter and importer over two pools of different sizes."""

    transport: str = "tcp"
    config: TransferConfig = field(default_factory=TransferConfig)
    faults: Faults | None = None
    clock: Clock = field(default_factory=SystemClock)
    reader_secret: bytes = SECRET
    reader_config: TransferConfig | None = None  # the source's
    reader_heads: int = 2
    dtype: str = "float32"
    layout: KVLayout | None = None
    released: list[int] = field(default_factory=list)
    more_transports: Transports = field(default_factory=dict)
    allocate: Callable[[int], KVMemory] = KVMemory.allocate

    def start(self) -> None:
        base = self.layout or KVLayout(6, 80, 2, 16, 8, self.dtype)
        self.source = Side.make(base, 1, self.allocate)
        shape = replace(base, num_blocks=64, num_kv_heads=self.reader_heads)
        self.target = Side.make(shape, None, self.allocate)
        self.config = replace(self.config, transport=self.transport)
        self.hub = MemoryHub()
        self.exporter = self.new_exporter(epoch=7)
        self.address = self.exporter.start("127.0.0.1")
        transports = {**TRANSPORTS, "memory": self.hub.open, **self.more_transports}
        if self.faults is not None:
            transports = with_faults(transports, self.faults, self.clock)
        self.importer = Importer(
            self.target.layout,
            self.target.memory,
            SystemClock(),
            self.reader_secret,
            replace(self.reader_config or self.config, transport=self.transport),
            transports=transports,
        )

    def new_exporter(self, epoch: int) -> Exporter:
        return Exporter(
            self.source.layout,
            self.source.memory,
            "worker-1",
            epoch,
            self.clock,
            SECRET,
            self.config,
            on_released=self.released.append,
            hub=self.hub,
        )

    def stop(self) -> None:
        self.importer.check_integrity()
        self.importer.close()
        self.importer.check_integrity()
        self.exporter.check_integrity()
        self.exporter.close()
        self.exporter.check_integrity()
        assert self.importer.num_active == 0
        assert self.exporter.num_active == 0
        assert len(self.released) == len(set(self.released))
        self.source.close()
        self.target.close()

    def begin(
        self,
        handle: KVHandle,
        blocks: Sequence[int],
        skip: int = 0,
        verify_share: float | None = None,
    ) -> "tuple[int, queue.Queue[PullResult]]":
        results: queue.Queue[PullResult] = queue.Queue()
        pull = self.importer.pull
        return pull(handle, blocks, skip, results.put, verify_share=verify_share), results

    def pull(
        self,
        handle: KVHandle,
        blocks: Sequence[int],
        skip: int = 0,
        verify_share: float | None = None,
    ) -> PullResult:
        return self.begin(handle, blocks, skip, verify_share)[1].get(timeout=PATIENCE_S)

    def publish_whole(self, export_id: int, blocks: Sequence[int], num_tokens: int) -> KVHandle:
        handle = self.exporter.publish(export_id, blocks, num_tokens, 0)
        self.exporter.advance(export_id, num_tokens, self.source.layout.num_layers)
        self.exporter.complete(export_id, (export_id,))
        return handle

    def assert_copied(self, source: Sequence[int], target: Sequence[int], skip: int = 0) -> None:
        want = self.source.view[:, list(source)[skip:]]
        assert np.array_equal(want, self.target.view[:, list(target)[skip:]])


class Peer:
    """A child process that answers in JSON lines."""

    def __init__(self, role: str, prefix: Sequence[str] = (), **settings: object) -> None:
        """prefix: words before the command, such as `ip netns exec NAME`."""
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(Path(__file__).with_name("peer_process.py")), role]
            + [json.dumps({**PATIENT, **settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: queue.Queue[dict] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self.hear("ready")
        except BaseException:
            self.process.kill()
            raise

    def tell(self, **command: object) -> None:
        self.process.stdin.write(json.dumps({"id": 0, **command}) + "\n")
        self.process.stdin.flush()

    def hear(self, what: str, timeout_s: float = PATIENCE_S):
        answer = self._answers.get(timeout=timeout_s)
        assert what in answer, answer
        return answer[what]

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """Its time-outs come sixty times as soon."""
        self.tell(do="run", pace=HURRY)
        yield
        self.tell(do="run", pace=1.0)

    def publish(self, ready_tokens: int, export_id: int = 1) -> dict:
        """A source's whole pool; gives the handle."""
        self.tell(do="publish", id=export_id, blocks=list(range(256)), ready=ready_tokens)
        return self.hear("handle")

    def wait_for_bytes(self) -> None:
        """Until something has arrived in a reader's pool."""

        def seen() -> bool:
            self.tell(do="seen")
            return bool(self.hear("seen"))

        wait_until(seen)

    def outlast_frozen(self, source: "Peer") -> None:
        """`source` freezes in the middle of this reader's pull, which fails; what it sends once it
        goes on again does not reach the pool."""
        handle = source.publish(16 * 256)
        source.tell(do="complete", id=1)
        self.tell(do="pull", handle=handle)
        self.wait_for_bytes()
        source.signal(signal.SIGSTOP)
        with self.in_a_hurry():
            result = self.hear("result")
        assert (result["ok"], result["reason"]) == (False, "peer_hung")
        self.tell(do="fill", byte=0xBB)
        assert self.hear("filled")
        source.signal(signal.SIGCONT)
        assert source.hear("released") == 1
        for _ in range(20):
            self.tell(do="holds", byte=0xBB)
            assert self.hear("holds")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> int | None:
        """Ends the process in its own way unless it was killed; gives its exit status, None where
        it had to be killed here."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)
        status = self.process.returncode
        self.process.kill()  # does nothing to a process that has ended
        self.process.wait()
        self._listener.join()
        self.process.stdout.close()
        return status

    def _listen(self) -> None:
        for line in self.process.stdout:
            self._answers.put(json.loads(line))


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Fails when the condition does not come true."""
    deadline_s = time.monotonic() + patience_s
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        tick.wait(0.002)


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def make_side() -> Callable[..., Side]:
    return Side.make


PACKAGES = {"nixl": ("nixl_cu12", "nixl_cu13"), "ucx": ("ucxx", "ucp")}


@pytest.fixture(autouse=True)
def transport_is_installed(request: pytest.FixtureRequest) -> None:
    """Skips the cases of an optional transport where none of its packages is there."""
    callspec = getattr(request.node, "callspec", None)
    for value in callspec.params.values() if callspec is not None else ():
        names = PACKAGES.get(value, ()) if isinstance(value, str) else ()
        if names and not any(importlib.util.find_spec(name) for name in names):
            pytest.skip(f"none of {', '.join(names)} is installed")


@pytest.fixture(autouse=True)
def nothing_is_left(transport_is_installed: None) -> Iterator[None]:
    """Every thread and descriptor that a test makes is gone after it."""
    threads, num_fds = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    yield
    wait_until(lambda: set(threading.enumerate()) <= threads)
    assert len(os.listdir("/proc/self/fd")) <= num_fds


@pytest.fixture
def make_rig(nothing_is_left: None) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**settings: object) -> Rig:
        rig = Rig(**settings)  # type: ignore[arg-type]
        rig.start()
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        rig.stop()


@pytest.fixture
def start(nothing_is_left: None) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def begin(role: str, **settings: object) -> Peer:
        peers.append(Peer(role, **settings))
        return peers[-1]

    yield begin
    ended = [peer.stop() for peer in peers]  # all of them, before any is complained about
    assert set(ended) <= {0, -signal.SIGKILL}, ended


@pytest.fixture(scope="session")
def host_cuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Compiles the library that plays NVIDIA's driver, with macros defined as asked for."""
    compiler, triton = shutil.which("gcc") or shutil.which("cc"), importlib.util.find_spec("triton")
    if compiler is None or triton is None:
        pytest.skip("a C compiler and Triton, which brings cuda.h, are not both here")
    headers = Path(triton.origin).parent / "backends/nvidia/include"
    folder = tmp_path_factory.mktemp("host_cuda")

    def make(*macros: str) -> str:
        library = folder / f"libcuda{'-'.join(macros)}.so"
        if not library.exists():
            flags = ["-O1", "-shared", "-fPIC", f"-I{headers}", *(f"-D{name}" for name in macros)]
            source = str(Path(__file__).with_name("host_cuda.c"))
            command = [compiler, *flags, source, "-o", str(library), "-lpthread", "-lrt"]
            subprocess.run(command, check=True, timeout=120)
        return str(library)

    yield make
    for left in Path("/dev/shm").glob("host-cuda-*"):  # by processes that tests have killed
        if not Path("/proc", left.name.split("-")[2]).exists():
            left.unlink(missing_ok=True)
