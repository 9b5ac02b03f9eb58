"""A source or a reader in a process of its own; commands are JSON lines on stdin and stdout."""

import base64
import json
import sys
from dataclasses import asdict, replace

import numpy as np

from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.pull import PullResult
from kv_transfer.transports.faulty import Faults, with_faults
from kv_transfer.transports.registry import TRANSPORTS
from runtime.clock import SystemClock
from runtime.log import configure
from wire.kv import FabricAddress, KVHandle, KVLayout

LAYOUT = KVLayout(4, 256, 2, 16, 32, "float32")
SECRET = b"two processes"


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


def run_source(memory: KVMemory, config: TransferConfig) -> None:
    pool = np.frombuffer(memory.buffer, np.uint8)
    pool[:] = np.arange(pool.size, dtype=np.uint32).astype(np.uint8) | 1
    exporter = Exporter(
        LAYOUT,
        memory,
        "source",
        1,
        SystemClock(),
        SECRET,
        config,
        on_released=lambda export_id: say(released=export_id),
    )
    exporter.start("127.0.0.1")
    say(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        export_id = command["id"]
        if command["do"] == "publish":
            blocks = command["blocks"]
            handle = exporter.publish(export_id, blocks, 16 * len(blocks), command["ready"])
            say(handle=handle_to_json(handle))
        elif command["do"] == "complete":
            exporter.complete(export_id, (1, 2))
        elif command["do"] == "reuse":
            pool[:] = 0
            say(reused=True)
    exporter.close()
    exporter.check_integrity()


def run_reader(memory: KVMemory, config: TransferConfig, rate_bytes_s: float) -> None:
    clock = SystemClock()
    transports = with_faults(TRANSPORTS, Faults(rate_bytes_s=rate_bytes_s), clock)
    importer = Importer(LAYOUT, memory, clock, SECRET, config, transports=transports)

    def tell(result: PullResult) -> None:
        fields = asdict(result)
        say(result={**fields, "intact": is_intact(memory) if result.ok else False})

    say(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "pull":
            handle = handle_from_json(command["handle"])
            importer.pull(handle, range(handle.num_tokens // 16), 0, tell)
        elif command["do"] == "seen":
            say(seen=bool(memory.buffer[0]))
    importer.close()
    importer.check_integrity()


def is_intact(memory: KVMemory) -> bool:
    pool = np.frombuffer(memory.buffer, np.uint8)
    return bool((pool == (np.arange(pool.size, dtype=np.uint32).astype(np.uint8) | 1)).all())


def main() -> None:
    configure("peer", level="error")
    role, settings = sys.argv[1], json.loads(sys.argv[2])
    rate_bytes_s = settings.pop("rate_bytes_s", 0.0)
    config = replace(TransferConfig(), **settings)
    memory = KVMemory.allocate(LAYOUT.pool_bytes)
    if role == "source":
        run_source(memory, config)
    else:
        run_reader(memory, config, rate_bytes_s)


if __name__ == "__main__":
    main()
