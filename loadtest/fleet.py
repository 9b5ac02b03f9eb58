"""The generator processes of one run: started, told when to begin, listened to, ended."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence

from loadtest.body import BodyOptions
from loadtest.errors import LoadtestError
from loadtest.plan import Conversation
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
    frame,
)
from loadtest.target import Target
from runtime.clock import Clock

_LEAD_S = 0.2  # between Start and the first arrival: every process has read it by then
_STREAM_LIMIT = 16 << 20

OnRecords = Callable[[Sequence[RequestRecord]], None]


class Fleet:
    """NEW -> prepare -> PREPARED -> run -> ENDED. close() ends the processes in any state."""

    def __init__(self, num_processes: int, clock: Clock) -> None:
        self._num_processes = num_processes
        self._clock = clock
        self._processes: list[asyncio.subprocess.Process] = []
        self._readers: list[FrameReader[FromShard]] = []
        self.finished: list[Finished] = []

    async def prepare(
        self,
        conversations: Sequence[Conversation],
        body: BodyOptions,
        target: Target,
        timeout_s: float,
    ) -> None:
        """Starts the processes and waits until their first bodies are made."""
        for place in range(self._num_processes):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "loadtest.shard",
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_STREAM_LIMIT,
            )
            self._processes.append(process)
            assert process.stdin is not None and process.stdout is not None
            self._readers.append(FrameReader[FromShard](process.stdout, FromShard))
            share = tuple(conversations[place :: self._num_processes])
            process.stdin.write(frame(ShardPlan(share, body, target, timeout_s)))
        for reader in self._readers:
            if not isinstance(await reader.next(), Prepared):
                raise LoadtestError("a generator process ended before the load started")

    def begin(self) -> float:
        """The clock's time of zero in the workload, a moment from now."""
        at = self._clock.now() + _LEAD_S
        self._tell(Start(at))
        return at

    async def run(self, on_records: OnRecords) -> None:
        """Hands records on as they come, until every process has finished."""
        pairs = zip(self._processes, self._readers, strict=True)
        await asyncio.gather(*(self._listen(*pair, on_records) for pair in pairs))

    def stop(self) -> None:
        """Ends the requests under way; run() then returns."""
        self._tell(Stop())

    async def close(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await process.wait()

    def _tell(self, message: Start | Stop) -> None:
        for process in self._processes:
            if process.stdin is not None and not process.stdin.is_closing():
                process.stdin.write(frame(message))

    async def _listen(
        self,
        process: asyncio.subprocess.Process,
        reader: FrameReader[FromShard],
        on_records: OnRecords,
    ) -> None:
        while True:
            message = await reader.next()
            if isinstance(message, Records):
                on_records(message.records)
                continue
            if isinstance(message, Finished):
                self.finished.append(message)
                return
            code = await process.wait()
            raise LoadtestError(f"a generator process died during the load (exit code {code})")
