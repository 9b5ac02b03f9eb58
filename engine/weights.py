"""Loads a model's weights from safetensors files, memory-mapped, or makes random ones."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import ModelError
from engine.json_fields import JsonFields
from engine.kernels.fp8_linear import multiplies_fp8
from engine.kernels.int4_linear import keeps_int4
from engine.kv_scaling import ScaledHeads
from engine.layers.shard import Group
from engine.models.build import build_model
from engine.models.model import Model
from engine.models.parts import TensorSource
from engine.quant_config import Packing
from engine.quantised import DequantisedTensors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FP8_BITS, INT4 = 8, 4
MIN_FLOAT_BYTES = 2  # a narrower one has scales beside it


def load(
    path: Path | str,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    kernels: str = "auto",
    fp8_kv: bool = False,
    group: Group | None = None,
    on_read: Callable[[float], None] | None = None,
) -> Model:
    """Load the model of a directory. Weights exist once, plus one layer while it is laid out.

    fp8_kv: with its heads scaled for a cache in fp8. group: this rank's share of the model.
    on_read: is told, with each tensor, what share of the checkpoint's tensors has been asked for.

    Raises ModelError, naming the file and the tensor, for what is missing, corrupt or of another
    shape than config.json says; ValueError where the group cannot share the model.
    """
    device, in_fp8 = torch.device(device), None
    source: TensorSource
    opened = Checkpoint.open(Path(path))
    checkpoint = opened if on_read is None else ToldCheckpoint(opened, on_read)
    source = checkpoint
    if config.quantisation is not None:
        bits = kept_bits(config, device)
        in_float = torch.float32 if bits else dtype
        source = plain = DequantisedTensors(config.quantisation, checkpoint, in_float, bits == INT4)
        in_fp8 = plain.fp8_step if bits == FP8_BITS else None
    if fp8_kv and config.latent is not None:
        raise ModelError(Path(path), "a latent cache cannot be kept in fp8")
    if fp8_kv:
        source = ScaledHeads(config, source)
    return build_model(config, source, dtype, device, kernels, in_fp8, group)


def kept_bits(config: ModelConfig, device: torch.device) -> int | None:
    """The bits of a checkpoint's quantised weights that stay as they are on that device."""
    found = config.quantisation
    if found is None:
        return None
    if found.packing is Packing.FP8:
        return FP8_BITS if multiplies_fp8(device) else None
    return INT4 if found.bits == INT4 and keeps_int4(device) else None


def random_model(
    config: ModelConfig,
    dtype: torch.dtype,
    seed: int,
    device: torch.device | str = "cpu",
    kernels: str = "auto",
) -> Model:
    """A model of that shape with weights drawn from the seed: for measurements, not for answers."""
    return build_model(config, RandomTensors(seed, dtype), dtype, torch.device(device), kernels)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The safetensors files of a model directory. Each tensor read maps its file anew, so that
    the pages of a weight that was copied elsewhere are given back with it."""

    file_of: Mapping[str, Path]
    index: Path  # what a missing tensor is blamed on

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Find the files and check that each is whole. Raises ModelError."""
        if (directory / INDEX).exists():
            return cls._indexed(directory, directory / INDEX)
        single = directory / SINGLE
        if not single.exists():
            raise ModelError(single, f"file is missing, and so is {INDEX}")
        return cls(dict.fromkeys(_names(single), single), single)

    @classmethod
    def _indexed(cls, directory: Path, index: Path) -> "Checkpoint":
        entries = JsonFields.from_file(index).nested("weight_map")
        file_of = {name: directory / entries.text(name) for name in entries.values}
        held = {path: _names(path) for path in sorted(set(file_of.values()))}
        for name, path in file_of.items():
            if name not in held[path]:
                raise ModelError(path, f"tensor {name!r} is missing, although {INDEX} lists it")
        return cls(file_of, index)

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def stored(self, name: str) -> Tensor:
        """A memory-mapped view of the tensor, in the file's shape and dtype."""
        path = self.file_of.get(name)
        if path is None:
            raise ModelError(self.index, f"tensor {name!r} is missing")
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(path, f"tensor {name!r} cannot be read: {error}") from error
        return tensor

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """As stored; a tensor of another shape, or of integers or fp8, is not what it should be."""
        tensor = self.stored(name)
        path = self.file_of[name]
        if tuple(tensor.shape) != shape:
            raise ModelError(path, f"tensor {name!r} has shape {tuple(tensor.shape)}, not {shape}")
        if not tensor.is_floating_point() or tensor.dtype.itemsize < MIN_FLOAT_BYTES:
            raise ModelError(path, f"tensor {name!r} has dtype {tensor.dtype}, not a plain float")
        return tensor


class ToldCheckpoint:
    """A checkpoint that tells how much of it has been asked for."""

    def __init__(self, checkpoint: Checkpoint, on_read: Callable[[float], None]) -> None:
        self._checkpoint = checkpoint
        self._on_read = on_read
        self._unread = set(checkpoint.file_of)

    @property
    def index(self) -> Path:
        return self._checkpoint.index

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def stored(self, name: str) -> Tensor:
        return self._told(name, self._checkpoint.stored(name))

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._told(name, self._checkpoint.tensor(name, shape))

    def _told(self, name: str, tensor: Tensor) -> Tensor:
        self._unread.discard(name)
        self._on_read(1 - len(self._unread) / len(self._checkpoint.file_of))
        return tensor


def _names(path: Path) -> frozenset[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return frozenset(file.keys())
    except FileNotFoundError:
        raise ModelError(path, "file is missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(path, f"is not a whole safetensors file: {error}") from error


@dataclass(frozen=True, slots=True)
class RandomTensors:
    """Draws each tensor from the seed and the tensor's name, so that the order does not matter."""

    seed: int
    dtype: torch.dtype

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self.dtype)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), self.seed))
        return torch.empty(shape, dtype=self.dtype).normal_(0, 0.02, generator=generator)
