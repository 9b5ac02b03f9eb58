"""Profiles by arithmetic: a model's operations and bytes over a device's rates.

Williams, Waterman, Patterson: "Roofline" (CACM 2009), with the shares of the peak that serving
engines reach in public measurements: about 60 % of the tensor rate in large matrix products, 45 %
in prefill attention, 80 % of the memory rate. Tensor parallelism adds two all-reduces a layer.
"""

from dataclasses import dataclass

from profiles.profile import Profile

_MATMUL_SHARE = 0.60
_ATTENTION_SHARE = 0.45
_MEMORY_SHARE = 0.80
_STEP_OVERHEAD_S = 0.0008  # launch, sampling and scheduling of one step
_SEQUENCE_OVERHEAD_S = 8e-6  # sampling, block tables and output of one sequence
_ALL_REDUCE_S = 10e-6
_USABLE_MEMORY = 0.90
_ACTIVATION_BYTES = 2e9
_LOAD_BYTES_PER_S = 5e9  # weights from a local disk


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What of a model decides its cost; parameters and bytes in BF16."""

    linear_parameters: float
    weights_bytes: float
    num_layers: int
    q_size: int
    hidden_size: int
    kv_bytes_per_token: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One GPU's data sheet."""

    flops: float
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    peer_bytes_per_s: float
    host_bytes_per_s: float
    usd_per_hour: float


def roofline(name: str, model: ModelFacts, device: DeviceFacts, num_gpus: int) -> Profile:
    """A worker of `num_gpus` GPUs with tensor parallelism.

    Raises ValueError when the weights leave no room for KV.
    """
    kv_bytes = (
        num_gpus * (device.memory_bytes * _USABLE_MEMORY - _ACTIVATION_BYTES) - model.weights_bytes
    )
    kv_tokens = int(kv_bytes // model.kv_bytes_per_token)
    if kv_tokens < 1:
        need, have = model.weights_bytes / 1e9, num_gpus * device.memory_bytes / 1e9
        raise ValueError(f"{name}: weights of {need:.0f} GB leave no room for KV in {have:.0f} GB")
    flops = num_gpus * device.flops
    bytes_per_s = num_gpus * device.memory_bytes_per_s * _MEMORY_SHARE
    joins = 2 * model.num_layers if num_gpus > 1 else 0
    join_share = 2 * (num_gpus - 1) / num_gpus  # of the activations, in a ring
    join_token_s = joins * join_share * 2 * model.hidden_size / device.peer_bytes_per_s
    # Causal attention costs 4 * q_size operations for each pair of tokens in each layer, and there
    # are ((p + c)^2 - p^2) / 2 pairs.
    pair_operations = 2 * model.num_layers * model.q_size
    linear_token_s = 2 * model.linear_parameters / (flops * _MATMUL_SHARE)
    return Profile(
        name=name,
        source="roofline of public data sheets (profiles/roofline.py, profiles/data)",
        step_s=model.weights_bytes / bytes_per_s + _STEP_OVERHEAD_S + joins * _ALL_REDUCE_S,
        sequence_s=_SEQUENCE_OVERHEAD_S + join_token_s,
        context_token_s=model.kv_bytes_per_token / bytes_per_s,
        prefill_token_s=linear_token_s + join_token_s,
        prefill_pair_s=pair_operations / (flops * _ATTENTION_SHARE),
        kv_tokens=kv_tokens,
        kv_bytes_per_token=model.kv_bytes_per_token,
        num_layers=model.num_layers,
        max_model_len=model.max_model_len,
        link_bytes_per_s=num_gpus * device.link_bytes_per_s * _MEMORY_SHARE,
        host_bytes_per_s=num_gpus * device.host_bytes_per_s * _MEMORY_SHARE,
        load_s=model.weights_bytes / _LOAD_BYTES_PER_S,
        num_gpus=num_gpus,
        usd_per_hour=num_gpus * device.usd_per_hour,
    )
