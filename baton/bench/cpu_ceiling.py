"""What the processor allows a step: how fast memory is read, and how fast torch multiplies."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels.cpu_library import load_operators
from engine.kernels.cpu_linear import OneDnnLinear
from engine.kernels.huge_pages import huge_empty

BF16 = torch.bfloat16


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each call in each of `repeats` rounds. The calls take turns, so that a machine
    whose speed changes, or that others use, treats them alike."""
    for call in calls:
        call()
    rounds = [[seconds(call) for call in calls] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


def share(floors_s: Sequence[float], own_s: Sequence[float]) -> float:
    """Median over the rounds of the floor's part in our time."""
    return median(floor / own for floor, own in zip(floors_s, own_s, strict=True))


class MemoryReader:
    """Reads memory in large pages, with all threads, and does nothing else."""

    def __init__(self, num_bytes: int = 1 << 30) -> None:
        self.num_bytes = num_bytes
        self._library = load_operators()
        self._region = huge_empty(num_bytes).fill_(1)

    def __call__(self) -> None:
        threads = torch.get_num_threads()
        self._library.baton_read(self._region.data_ptr(), self.num_bytes, threads)


@dataclass(frozen=True, slots=True)
class LayerProducts:
    """The four projections of one layer for a number of tokens, by torch's prepacked weights."""

    inputs: tuple[Tensor, ...]
    linears: tuple[OneDnnLinear, ...]
    num_layers: int

    @classmethod
    def random(cls, config: ModelConfig, tokens: int) -> "LayerProducts":
        inputs, linears = [], []
        for out_features, in_features in projections(config):
            weight = torch.empty(out_features, in_features, dtype=BF16).normal_(0, 0.02)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)
            linears.append(OneDnnLinear(packed, None, wide=False))
            inputs.append(torch.empty(tokens, in_features, dtype=BF16).normal_())
        return cls(tuple(inputs), tuple(linears), config.num_layers)

    @property
    def flops(self) -> float:
        """Floating-point operations of one call."""
        pairs = zip(self.linears, self.inputs, strict=True)
        return sum(2.0 * x.shape[0] * linear.packed.numel() for linear, x in pairs)

    def of_all_layers(self) -> None:
        for _ in range(self.num_layers):
            self()

    @torch.inference_mode()
    def __call__(self) -> None:
        for linear, x in zip(self.linears, self.inputs, strict=True):
            linear(x)


def projections(config: ModelConfig) -> list[tuple[int, int]]:
    """Outputs and inputs of a layer's fused projections."""
    return [
        (config.q_size + 2 * config.kv_size, config.hidden_size),
        (config.hidden_size, config.q_size),
        (2 * config.intermediate_size, config.hidden_size),
        (config.hidden_size, config.intermediate_size),
    ]


def num_weights(config: ModelConfig) -> int:
    """Weights that a decode step multiplies with: all projections and the head."""
    in_layers = sum(out * size for out, size in projections(config))
    return config.num_layers * in_layers + config.vocab_size * config.hidden_size


def decode_floor_s(
    config: ModelConfig, batch: int, context: int, bytes_per_s: float, flops: float
) -> float:
    """Least time of a decode step: weights are read and multiplied at once, whichever is slower;
    then each sequence's keys and values are read."""
    weights = num_weights(config)
    cache = batch * context * config.kv_bytes_per_token(BF16)
    return max(2 * weights / bytes_per_s, 2 * weights * batch / flops) + cache / bytes_per_s
