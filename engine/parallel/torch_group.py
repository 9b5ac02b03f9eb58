"""A group of ranks over torch.distributed's gloo, without its process-wide state."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.layers.shard import Shard

_LOOPBACK = "127.0.0.1"


class TorchGroup:
    """Ranks that find each other through a file of their host. Calls raise RuntimeError when a
    rank is gone, or silent for `timeout_s`."""

    def __init__(self, shard: Shard, timeout_s: float) -> None:
        self._shard = shard
        self._timeout = timedelta(seconds=timeout_s)
        self._backend: Any = None

    @property
    def shard(self) -> Shard:
        return self._shard

    def connect(self, meeting_file: Path) -> None:
        """Returns when all ranks have come. Raises RuntimeError where they do not."""
        torch_dist: Any = dist  # whose annotations leave most of this out
        gloo = torch_dist.ProcessGroupGloo
        options = gloo._Options()
        options._timeout = self._timeout
        options._devices = [gloo.create_device(hostname=_LOOPBACK)]
        store = torch_dist.FileStore(str(meeting_file), self._shard.size)
        store.set_timeout(self._timeout)
        self._backend = gloo(store, self._shard.rank, self._shard.size, options)

    def sum(self, x: Tensor) -> Tensor:
        # Nothing to add up, but the others' caches are to be written before this returns.
        shared = x if x.numel() else torch.zeros(1)
        self._connected.allreduce([shared]).wait()
        return x

    def gather(self, x: Tensor) -> Sequence[Tensor]:
        options = dist.GatherOptions()
        options.rootRank = 0
        parts = [torch.empty_like(x) for _ in range(self._shard.size)]
        parts = parts if self._shard.rank == 0 else []
        self._connected.gather([parts] if parts else [], [x], options).wait()
        return parts

    @property
    def _connected(self) -> Any:
        assert self._backend is not None, "the ranks have not met"
        return self._backend
