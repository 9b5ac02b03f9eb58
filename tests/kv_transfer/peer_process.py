"""A source or a reader in a process of its own; commands are JSON lines on stdin and stdout."""

import base64
import ctypes
import itertools
import json
import os
import signal
import socket
import sys
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from kv_transfer import data_session
from kv_transfer.channel import Channel
from kv_transfer.config import TransferConfig
from kv_transfer.cuda_device import CudaDevice, CudaMemory
from kv_transfer.cuda_driver import CudaDriver
from kv_transfer.device_twin import TwinMemory
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.pull import Pull, PullResult
from kv_transfer.transport import Moved
from kv_transfer.transports.faulty import Faults, with_faults
from kv_transfer.transports.registry import TRANSPORTS
from runtime.clock import SystemClock
from runtime.log import configure
from wire.kv import FabricAddress, KVHandle, KVLayout

NUM_MOVES = 3  # of a reader that dies in the middle of a transfer
LAYOUT = KVLayout(4, 256, 2, 16, 32, "float32")
SECRET = b"two processes"


class PacedClock:
    """The machine's clock, faster on request: a time-out that no slow host reaches comes when a
    test wants it."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._state = 0.0, self._clock.now(), 1.0  # added, since when, pace

    def now(self) -> float:
        added_s, since_s, pace = self._state
        now_s = self._clock.now()
        return now_s + added_s + (now_s - since_s) * (pace - 1.0)

    def run(self, pace: float) -> None:
        now_s = self._clock.now()
        self._state = self.now() - now_s, now_s, pace


def say(**words: object) -> None:
    print(json.dumps(words, default=list), flush=True)


def handle_to_json(handle: KVHandle) -> dict:
    fields = asdict(handle)
    return {**fields, "handle_id": base64.b64encode(handle.handle_id).decode()}


def handle_from_json(fields: dict) -> KVHandle:
    address = fields["address"]
    return KVHandle(
        **{
            **fields,
            "handle_id": base64.b64decode(fields["handle_id"]),
            "address": FabricAddress(**{**address, "transports": tuple(address["transports"])}),
        }
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str) -> None:
    """Makes this process kill itself at a named point.

    "before X", "after X": the sending of a frame X. "moved": some bytes have arrived.
    "half sent": a data frame is cut in the middle.
    """
    if point == "moved":
        moves = itertools.count(1)

        def arrive(pull: Pull, moved: Moved) -> None:
            if next(moves) == NUM_MOVES:
                die()
            was_moved(pull, moved)

        was_moved, Pull.arrive = Pull.arrive, arrive
    elif point == "half sent":
        send_views = data_session.send_views

        def send_half(sock: socket.socket, views: deque, stall_s: float) -> None:
            header, first = views[0], views[1]
            send_views(sock, deque([header, first[: len(first) // 2]]), stall_s)
            die()

        data_session.send_views = send_half
    else:
        when, name = point.split()

        def send(channel: Channel, *frames: object) -> None:
            is_hit = any(type(frame).__name__ == name for frame in frames)
            if is_hit and when == "before":
                die()
            send_all(channel, *frames)
            if is_hit:
                die()

        send_all, Channel.send = Channel.send, send


def allocate(config: TransferConfig, cuda: dict | None) -> KVMemory:
    """cuda: the driver's library, and the number of the GPU whose memory is the pool."""
    if cuda is not None:
        return CudaDevice(CudaDriver(cuda["library"]), cuda["gpu"]).allocate(LAYOUT.pool_bytes)
    make = TwinMemory if config.transport == "cuda_ipc" else KVMemory.allocate
    return make(LAYOUT.pool_bytes)


def fill(memory: KVMemory, values: np.ndarray) -> None:
    """values: of the whole pool. The host plays a GPU where it lets its memory be written."""
    if not isinstance(memory, CudaMemory):
        np.frombuffer(memory.buffer, np.uint8)[:] = values
    elif is_of_host():
        ctypes.memmove(memory.address, values.ctypes.data, values.nbytes)
    else:
        import torch  # where there is a GPU

        from worker.pool import device_view

        device = torch.device("cuda", memory.device)
        view = device_view(memory, LAYOUT, device).view(torch.uint8).flatten()
        view.copy_(torch.from_numpy(values))
        torch.cuda.synchronize(device)


def is_of_host() -> bool:
    """The driver is the host's own, of host_cuda.c."""
    return "/host-cuda-" in Path("/proc/self/maps").read_text()


def whole(memory: KVMemory) -> np.ndarray:
    return np.frombuffer(memory.readable[0 : memory.num_bytes], np.uint8)


def pattern() -> np.ndarray:
    return np.arange(LAYOUT.pool_bytes, dtype=np.uint32).astype(np.uint8) | 1


def run_source(memory: KVMemory, config: TransferConfig, host: str) -> None:
    fill(memory, pattern())
    clock = PacedClock()
    exporter = Exporter(
        LAYOUT,
        memory,
        "source",
        1,
        clock,
        SECRET,
        config,
        on_released=lambda export_id: say(released=export_id),
    )
    exporter.start(host)
    say(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        export_id = command["id"]
        if command["do"] == "run":
            clock.run(command["pace"])
        elif command["do"] == "publish":
            blocks = command["blocks"]
            handle = exporter.publish(export_id, blocks, 16 * len(blocks), command["ready"])
            say(handle=handle_to_json(handle))
        elif command["do"] == "complete":
            exporter.complete(export_id, (1, 2))
        elif command["do"] == "reuse":
            fill(memory, np.zeros(memory.num_bytes, np.uint8))
            say(reused=True)
    exporter.close()
    exporter.check_integrity()


def run_reader(memory: KVMemory, config: TransferConfig, rate_bytes_s: float) -> None:
    clock = PacedClock()
    transports = with_faults(TRANSPORTS, Faults(rate_bytes_s=rate_bytes_s), SystemClock())
    importer = Importer(LAYOUT, memory, clock, SECRET, config, transports=transports)

    def tell(result: PullResult) -> None:
        fields = asdict(result)
        say(result={**fields, "intact": is_intact(memory) if result.ok else False})

    say(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "run":
            clock.run(command["pace"])
        elif command["do"] == "pull":
            handle = handle_from_json(command["handle"])
            importer.pull(handle, range(handle.num_tokens // 16), 0, tell)
        elif command["do"] == "seen":
            say(seen=bool(memory.readable[0:1][0]))
        elif command["do"] == "fill":
            fill(memory, np.full(memory.num_bytes, command["byte"], np.uint8))
            say(filled=True)
        elif command["do"] == "holds":
            say(holds=bool((whole(memory) == command["byte"]).all()))
    importer.close()
    importer.check_integrity()


def is_intact(memory: KVMemory) -> bool:
    return bool((whole(memory) == pattern()).all())


def main() -> None:
    configure("peer", level="error")
    role, settings = sys.argv[1], json.loads(sys.argv[2])
    rate_bytes_s = settings.pop("rate_bytes_s", 0.0)
    if point := settings.pop("die_at", ""):
        die_at(point)
    host = settings.pop("host", "127.0.0.1")
    cuda = settings.pop("cuda", None)
    config = replace(TransferConfig(), **settings)
    memory = allocate(config, cuda)
    if role == "source":
        run_source(memory, config, host)
    else:
        run_reader(memory, config, rate_bytes_s)


if __name__ == "__main__":
    main()
