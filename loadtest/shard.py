"""A generator process: takes its share of a workload on stdin, tells records on stdout.

Run as `python -m loadtest.shard` by a run, which is the only one that talks to it.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import time

import uvloop

from loadtest.body import BodyMaker
from loadtest.generator import Generator
from loadtest.record import RequestRecord
from loadtest.shard_messages import (
    Finished,
    FrameReader,
    FromShard,
    Prepared,
    Records,
    ShardPlan,
    Start,
    Stop,
    ToShard,
    frame,
)
from runtime.clock import SystemClock
from runtime.lifecycle import die_with_parent

_FLUSH_S = 0.05
_STREAM_LIMIT = 1 << 20


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One run: ShardPlan, Start, and then Stop or the end of the stream end it early."""
    frames = FrameReader[ToShard](reader, ToShard)
    plan = await frames.next()
    if not isinstance(plan, ShardPlan):
        return
    outbox: list[RequestRecord] = []
    clock = SystemClock()
    generator = Generator(
        plan.conversations,
        BodyMaker(plan.body),
        plan.target,
        clock,
        outbox.append,
        timeout_s=plan.timeout_s,
    )
    generator.prepare()
    gc.freeze()  # the plan never becomes garbage: collections need not walk it
    _send(writer, Prepared())
    start = await frames.next()
    if not isinstance(start, Start):
        return
    watching = asyncio.create_task(_stop_when_told(frames, generator))
    flushing = asyncio.create_task(_flush(outbox, writer))
    began, cpu_before = clock.now(), time.process_time()
    await generator.run(start.at)
    wall_s, busy_s = clock.now() - began, time.process_time() - cpu_before
    for task in (watching, flushing):
        task.cancel()
    await asyncio.wait((watching, flushing))
    _send(writer, Records(tuple(outbox)))
    _send(writer, Finished(busy_s / max(wall_s, 1e-9), generator.num_connections))
    await writer.drain()


async def _stop_when_told(frames: FrameReader[ToShard], generator: Generator) -> None:
    message = await frames.next()
    assert message is None or isinstance(message, Stop)
    generator.stop()


async def _flush(outbox: list[RequestRecord], writer: asyncio.StreamWriter) -> None:
    while True:
        await asyncio.sleep(_FLUSH_S)
        if outbox:
            _send(writer, Records(tuple(outbox)))
            outbox.clear()


def _send(writer: asyncio.StreamWriter, message: FromShard) -> None:
    writer.write(frame(message))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_STREAM_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(sys.stdout.fileno(), "wb")
    )
    transport.set_write_buffer_limits(high=0)  # drain() then waits until all is written
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    with contextlib.suppress(ConnectionError):  # the run is gone
        await serve(reader, writer)
    writer.close()


def main() -> None:
    """Ctrl-C is the run's to handle; file descriptors are for connections, so all are taken."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    gc.set_threshold(50_000, 20, 100)
    uvloop.run(_main())


if __name__ == "__main__":
    main()
