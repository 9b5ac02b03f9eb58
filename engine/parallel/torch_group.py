"""Ranks over torch.distributed without its process-wide state: gloo, or NCCL on GPUs."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.layers.shard import Shard

_LOOPBACK = "127.0.0.1"
# (store, which carries NCCL's id too; this rank, of how many; seconds of silence) -> a backend
_Open = Callable[[Any, Shard, timedelta], Any]


def _gloo(store: Any, shard: Shard, timeout: timedelta) -> Any:
    torch_dist: Any = dist  # whose annotations leave most of this out
    gloo = torch_dist.ProcessGroupGloo
    options = gloo._Options()
    options._timeout = timeout
    options._devices = [gloo.create_device(hostname=_LOOPBACK)]
    return gloo(store, shard.rank, shard.size, options)


def _nccl(store: Any, shard: Shard, timeout: timedelta) -> Any:
    torch_dist: Any = dist
    options = torch_dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return torch_dist.ProcessGroupNCCL(store, shard.rank, shard.size, options)


_BACKENDS: dict[str, _Open] = {"cpu": _gloo, "cuda": _nccl}


class TorchGroup:
    """Ranks that find each other through a file of their host. Calls raise RuntimeError when a
    rank is gone, or silent for `timeout_s`; a GPU's calls return before they are computed."""

    def __init__(self, shard: Shard, timeout_s: float) -> None:
        self._shard = shard
        self._timeout = timedelta(seconds=timeout_s)
        self._device = torch.device("cpu")
        self._backend: Any = None

    @property
    def shard(self) -> Shard:
        return self._shard

    def connect(self, meeting_file: Path, device: torch.device) -> None:
        """device: of this rank's tensors. Returns when all ranks have come, and the first sum is
        there. Raises RuntimeError where they do not."""
        torch_dist: Any = dist
        store = torch_dist.FileStore(str(meeting_file), self._shard.size)
        store.set_timeout(self._timeout)
        self._device = device
        self._backend = _BACKENDS[device.type](store, self._shard, self._timeout)
        self.sum(torch.ones(1, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def abort(self) -> None:
        """Ends what a GPU waits for in vain, because a rank is lost. gloo sees that by itself."""
        if self._backend is not None and self._device.type == "cuda":
            self._backend.abort()

    def sum(self, x: Tensor) -> Tensor:
        # Nothing to add up, but the others' caches are to be written before this returns.
        shared = x if x.numel() else torch.zeros(1, device=x.device)
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
