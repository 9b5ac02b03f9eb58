"""The processes that compute this worker's model beside its own, where there are any."""

import contextlib
from concurrent.futures import Future
from pathlib import Path

import torch

from engine.config import ModelConfig
from engine.fallback.model import load_fallback
from engine.forward import ForwardModel
from engine.layers.shard import Shard, check_divides
from engine.models import Model
from engine.parallel.leading_model import LeadingModel
from engine.parallel.ranks import Ranks, started_ranks
from engine.parallel.setup import RankSetup
from engine.parallel.torch_group import TorchGroup
from engine.weights import load
from kv_transfer.memory import KVMemory
from wire.kv import KVLayout

_SILENCE_S = 120.0  # of one rank within a step, after which it counts as lost


class ModelRanks:
    """One model by `size` processes, of which this one is rank 0; of size 1: by this one alone.

    The others start with `load` and end with `stack`.
    """

    def __init__(self, size: int, stack: contextlib.ExitStack) -> None:
        """Raises ValueError for a size below 1."""
        if size < 1:
            raise ValueError(f"tensor_parallel must be at least 1, is {size}")
        self._stack = stack
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
    ) -> ForwardModel:
        """This rank's share of the model; the others load theirs meanwhile. A model whose layers
        are transformers' is not shared.

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
            return load(directory, config, dtype, device, fp8_kv=fp8_kv)
        if device.type != "cpu":
            raise ValueError(f"tensor_parallel {self.size} is for CPUs, and the device is {device}")
        check_divides(config, self.size)
        threads = max(1, torch.get_num_threads() // self.size)
        torch.set_num_threads(threads)

        def setup(shard: Shard, meeting_file: Path) -> RankSetup:
            return RankSetup(
                shard, directory, config, dtype, fp8_kv, threads, meeting_file, _SILENCE_S
            )

        self._ranks = self._stack.enter_context(started_ranks(self.size, setup))
        return load(directory, config, dtype, device, fp8_kv=fp8_kv, group=self._group)

    def joined(self, model: ForwardModel, memory: KVMemory, layout: KVLayout) -> ForwardModel:
        """The whole model, once all ranks compute over one cache. Raises RankLostError."""
        if self._ranks is None:
            return model
        assert isinstance(model, Model), "a share is a model of its own"
        self._ranks.meet(self._group, memory.descriptor, layout)
        return LeadingModel(model, self._group.shard, self._ranks)
