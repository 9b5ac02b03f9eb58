"""The processes that compute this worker's model beside its own, where there are any."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.fallback.model import load_fallback
from engine.forward import ForwardModel
from engine.kv_path import KVPath
from engine.layers.shard import Shard, check_divides
from engine.models import Model
from engine.parallel.leading_model import LeadingModel
from engine.parallel.rank_kv import RankKV, device_of_rank
from engine.parallel.ranked_path import RankedPath
from engine.parallel.ranks import Ranks, started_ranks
from engine.parallel.setup import RankSetup
from engine.parallel.torch_group import TorchGroup
from engine.weights import load
from kv_transfer.memory import KVMemory
from runtime.log import get_logger
from wire.kv import KVLayout

_SILENCE_S = 120.0  # of one rank within a step, after which it counts as lost


class ModelRanks:
    """One model by `size` processes, of which this one is rank 0; of size 1: by this one alone.

    The others start with `load` and end with `stack`. On CPUs they compute in the worker's pool,
    on GPUs each in memory of its own, with mirrors between.
    """

    def __init__(
        self,
        size: int,
        stack: contextlib.ExitStack,
        own_kv_on: frozenset[str] = frozenset({"cuda"}),
    ) -> None:
        """own_kv_on: the types of devices on which each rank computes in memory of its own. Raises
        ValueError for a size below 1."""
        if size < 1:
            raise ValueError(f"tensor_parallel must be at least 1, is {size}")
        self._stack = stack
        self._own_kv_on = own_kv_on
        self._own: RankKV | None = None
        self._group = TorchGroup(Shard(0, size), _SILENCE_S)
        self._ranks: Ranks | None = None

    @property
    def size(self) -> int:
        return self._group.shard.size

    @property
    def lost(self) -> Future[str] | None:
        """Gets a sentence when one of the others ends; None where there is no other."""
        return None if self._ranks is None else self._ranks.lost

    def load(
        self,
        directory: Path,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        fp8_kv: bool,
        on_read: Callable[[float], None] | None = None,
    ) -> ForwardModel:
        """This rank's share of the model; the others load theirs meanwhile. A model whose layers
        are transformers' is not shared. on_read: as the loader's, of this rank's share.

        Raises ModelError as the loader, ValueError where the ranks cannot share the model, OSError
        where processes cannot be had.
        """
        if config.is_foreign:
            if fp8_kv or self.size > 1:
                what = "kv_dtype fp8" if fp8_kv else f"tensor_parallel {self.size}"
                text = f"is not for {config.architecture}, whose layers are transformers'"
                raise ValueError(f"{what} {text}")
            return load_fallback(directory, config, dtype, device)
        if self.size == 1:
            return load(directory, config, dtype, device, fp8_kv=fp8_kv, on_read=on_read)
        check_divides(config, self.size)
        if device.type != "cpu":
            _check_gpus(device, self.size)
            get_logger("worker").warning("unproven", what="ranks on GPUs", ranks=self.size)
        threads = max(1, torch.get_num_threads() // self.size)
        torch.set_num_threads(threads)

        def setup(shard: Shard, meeting_file: Path) -> RankSetup:
            return RankSetup(
                shard=shard,
                directory=directory,
                config=config,
                dtype=dtype,
                device=device_of_rank(device, shard.rank),
                has_own_kv=self.have_own_kv(device),
                fp8_kv=fp8_kv,
                threads=threads,
                meeting_file=meeting_file,
                timeout_s=_SILENCE_S,
            )

        self._ranks = self._stack.enter_context(started_ranks(self.size, setup))
        return load(
            directory, config, dtype, device, fp8_kv=fp8_kv, group=self._group, on_read=on_read
        )

    def have_own_kv(self, device: torch.device) -> bool:
        """Whether each of several ranks on such devices computes in memory of its own, so that the
        worker's pool lies in host memory."""
        return self.size > 1 and device.type in self._own_kv_on

    def path(self, model: ForwardModel, pool: Tensor) -> KVPath:
        """Between the ranks' own memory and the pool, a cache of the whole model in host memory;
        it ends with the stack. Raises OSError where host memory cannot be pinned for a GPU."""
        assert self._ranks is not None, "one process alone has no memory beside its pool"
        heads = self._group.shard.kv_heads(model.config.num_kv_heads)
        self._own = RankKV.over(pool, heads, model.device, is_own=True)
        assert self._own.mirror is not None
        self._stack.callback(self._own.close)
        return RankedPath(self._own.mirror, model.config.num_layers, self._ranks)

    def joined(self, model: ForwardModel, memory: KVMemory, layout: KVLayout) -> ForwardModel:
        """The whole model, once all ranks compute over one cache. Raises RankLostError."""
        if self._ranks is None:
            return model
        assert isinstance(model, Model), "a share is a model of its own"
        self._ranks.meet(self._group, model.device, memory.descriptor, layout)
        return LeadingModel(model, self._group.shard, self._ranks, self._own)


def _check_gpus(first: torch.device, size: int) -> None:
    """Raises ValueError where this host cannot give each rank a GPU that it can talk from."""
    if not torch.distributed.is_nccl_available():
        raise ValueError(f"tensor_parallel {size} on GPUs needs a torch with NCCL")
    last, count = device_of_rank(first, size - 1), torch.cuda.device_count()
    if (last.index or 0) >= count:
        text = f"from device {first} on needs {last}; this host has {count} GPUs"
        raise ValueError(f"tensor_parallel {size} {text}")
