"""What the control plane costs: heartbeats of a large cluster, and the operators' status."""

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import msgspec

from baton.bench.row import Row
from control_plane.api.facts import ClusterFacts
from control_plane.api.views import status_view
from control_plane.config import ControlConfig
from control_plane.leadership import Term
from control_plane.planning import Stance
from control_plane.registry import Registry
from control_plane.server import ControlServer
from runtime import log
from runtime.clock import SystemClock
from runtime.lifecycle import collect_rarely
from wire import cluster_codec
from wire.cluster import Fingerprint, WorkerBeat, WorkerInfo
from wire.kv import FabricAddress
from wire.messages import Role, WorkerReport

NUM_BEATING = 2000
NUM_SHOWN = 1000
_NUM_CLIENTS = 4
_START_S = 120.0
_MEASURED_S = 27.0  # two beats of each
_BOUND_SHARE = 0.05
_BOUND_STATUS_MS = 50.0


def run(repeats: int) -> list[Row]:
    """CPU time of this process, so that other load on the host does not count."""
    registry = Registry(SystemClock())
    beats = [beat_of(number) for number in range(NUM_BEATING)]
    messages = [cluster_codec.encode_beat(beat) for beat in beats]
    parse = type(messages[0]).FromString
    encoded = [message.SerializeToString() for message in messages]

    def hear() -> None:
        for beat in beats:
            registry.beat(beat)
        for _ in range(4):
            registry.expire()

    def decode_and_hear() -> None:
        for content in encoded:
            registry.beat(cluster_codec.decode_beat(parse(content)))

    hear()
    facts = ClusterFacts(
        1, 1.0, registry.status()[:NUM_SHOWN], (), (), Stance.ACT, "", None, None, Term("", True, 0)
    )
    status_ms = 1e3 * _cpu_s(lambda: msgspec.json.encode(status_view(facts)), repeats)
    return [
        _row("control.beats.streams", asyncio.run(_streams_cores("")), "cores", _BOUND_SHARE),
        _row("control.beats.hosts", asyncio.run(_streams_cores("--apart")), "cores", _BOUND_SHARE),
        _row("control.beats.registry", _cpu_s(hear, repeats), "cores", _BOUND_SHARE),
        _row("control.beats.decoded", _cpu_s(decode_and_hear, repeats), "cores", _BOUND_SHARE),
        _row("control.status", status_ms, "ms", _BOUND_STATUS_MS),
    ]


async def _streams_cores(how: str) -> float:
    """CPU time a second of this process, heard by as many registrations of other processes as
    often as it asks them to beat. A busy host may send fewer: what one costs counts.

    how: "" for one connection of each process, "--apart" for one of each worker.
    """
    log.configure("bench", level="warning")
    collect_rarely()
    _allow_files(2 * NUM_BEATING)
    config = ControlConfig(
        host="0.0.0.0",  # each address of the loopback is a host of its own
        port=0,
        http_port=-1,
        settle_s=0.0,
        beat_timeout_s=30.0,
    )
    server = ControlServer(config, SystemClock())
    await server.start()
    count = NUM_BEATING // _NUM_CLIENTS
    numbers = [(str(server.port), str(first), str(count)) for first in range(0, NUM_BEATING, count)]
    command = (sys.executable, "-m", "baton.bench.beating")
    clients = [
        subprocess.Popen([*command, *given, *([how] if how else [])], stdout=subprocess.DEVNULL)
        for given in numbers
    ]
    try:
        async with asyncio.timeout(_START_S):
            while len(server.serving()) < NUM_BEATING:
                await asyncio.sleep(0.5)
        await asyncio.sleep(server.registry.interval_s)  # who came early was told of fewer
        before_s, begun = time.process_time(), _num_beats(server)
        await asyncio.sleep(_MEASURED_S)
        heard = max(1.0, _num_beats(server) - begun)
        beats_per_s = NUM_BEATING / server.registry.interval_s
        return (time.process_time() - before_s) / heard * beats_per_s
    finally:
        for client in clients:
            client.kill()
            client.wait()
        await server.stop()


def _allow_files(count: int) -> None:
    """This process and its children may have that many open, where the host lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count), hard), hard))


def _num_beats(server: ControlServer) -> float:
    """As the server's own metrics count them."""
    lines = server.metrics.exposition().decode().splitlines()
    name = "baton_control_beats_total "
    return float(next(line for line in lines if line.startswith(name)).removeprefix(name))


def _row(name: str, value: float, unit: str, bound: float) -> Row:
    return Row(name, value, unit, "bound", bound, value / bound)


def _cpu_s(work: Callable[[], object], repeats: int) -> float:
    """One round stands for one second of a cluster in which every worker beats once a second."""
    taken_s = []
    for _ in range(repeats):
        before_s = time.process_time()
        work()
        taken_s.append(time.process_time() - before_s)
    return median(taken_s)


def beat_of(number: int) -> WorkerBeat:
    role = Role.PREFILL if number % 4 == 0 else Role.DECODE
    info = WorkerInfo(
        worker_id=f"{role.value}-{number}",
        epoch=1,
        role=role,
        address=f"10.0.{number // 250}.{number % 250}:7000",
        fabric=FabricAddress(f"10.0.{number // 250}.{number % 250}", 7001, "host", "", ("tcp",)),
        fingerprint=Fingerprint("model", "r1", "bfloat16", 16, "L32H8B16D128:bfloat16"),
        max_model_len=32768,
        num_blocks=20000,
        pid=number + 1,
    )
    return WorkerBeat(info, WorkerReport(role, num_running=8, num_blocks=20000))
