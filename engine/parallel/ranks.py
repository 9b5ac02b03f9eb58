"""Rank 0's hold on the processes of the other ranks."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from engine.layers.shard import Shard
from engine.parallel.leading_model import RankLostError
from engine.parallel.setup import READY, RankSetup
from engine.parallel.torch_group import TorchGroup
from wire.kv import KVLayout

_END_TIMEOUT_S = 5.0


@contextlib.contextmanager
def started_ranks(size: int, setup: Callable[[Shard, Path], RankSetup]) -> Iterator["Ranks"]:
    """The ranks 1 to size - 1, which load their shares meanwhile; they end with the context.

    setup: of a rank, with the file where all meet. Raises OSError where processes cannot be had.
    """
    with TemporaryDirectory(prefix="baton-ranks-") as folder:
        meeting_file = Path(folder) / "meeting"
        ranks = Ranks([setup(Shard(rank, size), meeting_file) for rank in range(1, size)])
        try:
            ranks.start()
            yield ranks
        finally:
            ranks.close()


class Ranks:
    """The processes of the ranks above 0.

    `lost` gets a sentence when one of them ends that was not asked to; the others are ended then.
    """

    def __init__(self, setups: Sequence[RankSetup]) -> None:
        self._setups = setups
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watches: list[threading.Thread] = []
        self._group: TorchGroup | None = None
        self._num_saved = [0] * len(setups)
        self._is_closing = False
        self._losing = threading.Lock()
        self.lost: Future[str] = Future()

    def start(self) -> None:
        for setup in self._setups:
            here, there = socket.socketpair()
            with there:
                argv = (sys.executable, "-m", "engine.parallel.follower", str(there.fileno()))
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, pass_fds=(there.fileno(),)
                )
            self._processes.append(process)
            self._pipes.append(Connection(here.detach()))
            watch = threading.Thread(
                target=self._watch, args=(setup.shard.rank, process), name="rank-watch", daemon=True
            )
            watch.start()
            self._watches.append(watch)
        for pipe, setup in zip(self._pipes, self._setups, strict=True):
            with self._lost_if_broken():
                pipe.send(setup)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self._processes)

    def meet(
        self, group: TorchGroup, device: torch.device, descriptor: int, layout: KVLayout
    ) -> None:
        """Waits until every rank has loaded, hands it the memory of the cache, and joins them to
        the group of this rank, which computes on `device`. Raises RankLostError."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            with self._lost_if_broken():
                assert pipe.recv() == READY
                pipe.send(layout)
                send_handle(pipe, descriptor, process.pid)
        self._group = group
        try:
            group.connect(self._setups[0].meeting_file, device)
        except RuntimeError as error:
            raise RankLostError(f"the ranks of the model did not meet: {error}") from error

    def send(self, message: bytes) -> None:
        """To every one of them. Raises RankLostError."""
        for pipe in self._pipes:
            with self._lost_if_broken():
                pipe.send_bytes(message)

    def wait_saved(self, count: int) -> bool:
        """Waits until each has ended `count` saves in all; False when one is lost. Called on one
        thread, once the ranks have met."""
        for index, pipe in enumerate(self._pipes):
            while self._num_saved[index] < count:
                try:
                    pipe.recv_bytes()
                except (EOFError, OSError):
                    return False
                self._num_saved[index] += 1
        return True

    def check(self) -> None:
        """Raises RankLostError when one of them has ended."""
        if self.lost.done():
            raise RankLostError(self.lost.result())

    def end(self) -> None:
        """Ends them at once, as lost."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """Lets them end, and ends those that do not; safe to call twice."""
        self._is_closing = True
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        for watch in self._watches:
            watch.join()

    @contextlib.contextmanager
    def _lost_if_broken(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            raise RankLostError("a rank of the model has ended") from error

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        code = process.wait()
        if self._is_closing:
            return
        with self._losing:
            if self.lost.done():
                return
            self.lost.set_result(f"rank {rank} of the model ended, exit code {code}")
        self.end()
        if self._group is not None:
            self._group.abort()  # last: it may take its time, and the loss is told by then
