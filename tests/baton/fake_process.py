"""A worker or gateway without a model, for tests of what starts and stops them.

It takes the command line of `baton prefill|decode|gateway`. A model name says how it behaves:
"cut-short" cannot be loaded, "never-ready" never serves.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator

from runtime.lifecycle import die_with_parent, stop_event
from wire import rpc
from wire.cluster import Fingerprint, OrderKind, WorkerBeat, WorkerInfo
from wire.kv import FabricAddress
from wire.messages import Role, WorkerReport


def parse() -> tuple[str, argparse.Namespace]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("kind")
    for name in ("model", "served-model-name", "control-address", "host", "worker-id"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--port", type=int)
    parser.add_argument("--parent-pid", type=int)
    known, _ = parser.parse_known_args()
    return known.kind, known


def beat_of(role: Role, epoch: int, options: argparse.Namespace) -> WorkerBeat:
    info = WorkerInfo(
        worker_id=options.worker_id,
        epoch=epoch,
        role=role,
        address="127.0.0.1:1",
        fabric=FabricAddress("127.0.0.1", 2),
        fingerprint=Fingerprint(options.served_model_name, "r", "float32", 16, "x"),
        max_model_len=64,
        num_blocks=8,
        pid=os.getpid(),
    )
    return WorkerBeat(info, WorkerReport(role, num_blocks=8, num_free_blocks=6))


async def work(kind: str, options: argparse.Namespace) -> None:
    stop = stop_event()
    roles = [Role(kind)]

    async def beats() -> AsyncIterator[WorkerBeat]:
        epoch = time.time_ns()
        while not stop.is_set():
            yield beat_of(roles[-1], epoch, options)
            try:
                await asyncio.wait_for(stop.wait(), 0.05)
            except TimeoutError:
                continue

    channel = rpc.open_channel(options.control_address)
    async for order in rpc.register(channel, beats(), os.environ["BATON_CLUSTER_TOKEN"]):
        if order.kind is OrderKind.FLIP and order.role is not None:
            roles.append(order.role)
        if order.kind is OrderKind.DRAIN:
            stop.set()
    await channel.close()


async def serve(options: argparse.Namespace) -> None:
    stop = stop_event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, options.host, options.port)
    await stop.wait()
    server.close()


def main() -> None:
    kind, options = parse()
    die_with_parent(options.parent_pid)
    print(f"{kind} starts", flush=True)
    if options.served_model_name == "cut-short":
        sys.exit("model.safetensors: has 10 bytes where its header says 20")
    if options.served_model_name == "never-ready":
        time.sleep(600)
    asyncio.run(serve(options) if kind == "gateway" else work(kind, options))
    print(f"{kind} ends", flush=True)


if __name__ == "__main__":
    main()
