"""A worker's model, loaded, and the plan of the memory beside it."""

from dataclasses import replace
from pathlib import Path

import torch

from engine.config import ModelConfig
from engine.fallback.config import read_config
from engine.forward import ForwardModel
from engine.kernels.fp8_linear import FP8
from engine.kv_cache import kv_layout
from engine.memory_plan import MemoryPlan, plan_memory, step_workspace_bytes
from engine.weights import kept_bits
from runtime.clock import Clock, SystemClock, sleep, wall_time_s
from runtime.log import get_logger
from runtime.sizes import parse_bytes
from wire.messages import Role
from worker.config import WorkerConfig
from worker.drafts import Draft, DraftMemory
from worker.model_ranks import ModelRanks
from worker.modelled import load_modelled

_READ_LOG_S = 2.0
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(
    config: WorkerConfig, draft: Draft | None, ranks: ModelRanks
) -> tuple[MemoryPlan, ForwardModel]:
    """Loads the weights and plans the memory beside them, and says so in one line."""
    if config.profile:
        if config.kv_dtype != "auto":
            raise ValueError(f"kv_dtype {config.kv_dtype} needs a real engine; a profile is set")
        if ranks.size > 1:
            raise ValueError(f"tensor_parallel {ranks.size} needs a real engine; a profile is set")
        return load_modelled(config, SystemClock(), sleep)
    directory = Path(config.model)
    model_config = read_config(directory)
    dtype, device = _dtype(config.dtype, model_config), _device(config.device)
    if ranks.have_own_kv(device):
        _check_ranks(config, ranks.size)
    limit = config.max_model_len or model_config.max_position_embeddings
    started_s = wall_time_s()
    kv_dtype = _kv_dtype(config.kv_dtype, dtype)
    served = model_config.with_context(limit)
    told = ReadLog(SystemClock())
    model = ranks.load(directory, served, dtype, device, kv_dtype == FP8, told)
    beside = DraftMemory(0, 0)
    if draft is not None:
        model, beside = draft.tapped(model), draft.memory(dtype)
    max_batch_tokens = max(
        replace(config, role=role).batch_tokens(device.type != "cpu") for role in Role
    )
    plan = plan_memory(
        kv_layout(model_config, kv_dtype, num_blocks=1),
        parse_bytes(config.kv_memory),
        min(limit, model_config.max_position_embeddings),
        weights_bytes=model_config.weights_bytes(dtype, kept_bits(model_config, device)),
        workspace_bytes=ranks.size
        * step_workspace_bytes(
            vocab_size=model_config.vocab_size,
            widest_row=2 * model_config.intermediate_size,
            max_batch_tokens=max_batch_tokens,
            max_num_seqs=config.max_num_seqs,
            max_drafts=config.max_drafts if config.speculate != "off" else 0,
        )
        + beside.token_bytes * max_batch_tokens,
        draft_block_bytes=beside.block_bytes,
        draft_weights_bytes=beside.weights_bytes,
    )
    room = engine_blocks(plan) * plan.layout.block_size
    has_mirror = device.type != "cpu" and config.kv_device_path == "host"
    plan = replace(
        plan,
        max_model_len=min(plan.max_model_len, room),
        mirror_bytes=plan.kv_bytes if has_mirror else 0,
    )
    log = get_logger("worker")
    log.info("model_loaded", seconds=round(wall_time_s() - started_s, 2), dtype=plan.layout.dtype)
    log.info("memory_plan", plan=str(plan))
    return plan, model


def engine_blocks(plan: MemoryPlan) -> int:
    """The pool's last block is kept for probes of the fabric and never holds a request's KV."""
    return max(1, plan.num_blocks - 1)


class ReadLog:
    """Logs how much of a checkpoint has been read, while that takes long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_s = clock.now()

    def __call__(self, share: float) -> None:
        if (now_s := self._clock.now()) - self._told_s >= _READ_LOG_S:
            self._told_s = now_s
            get_logger("worker").info("reading_weights", percent=int(100 * share))


def _check_ranks(config: WorkerConfig, size: int) -> None:
    """Raises ValueError for what reads the memory of one process alone."""
    for name, is_set in (
        ("kv_device_path direct", config.kv_device_path == "direct"),
        ("host_kv_memory", parse_bytes(config.host_kv_memory) > 0),
    ):
        if is_set:
            raise ValueError(f"{name} is not for tensor_parallel {size} on GPUs")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is asked for, and torch finds no CUDA device")
    return device


def _dtype(name: str, model_config: ModelConfig) -> torch.dtype:
    """The named one; `auto` is the checkpoint's, with bfloat16 in float16's place."""
    if name == "auto":
        own = model_config.dtype
        return own if own in _DTYPES.values() else torch.bfloat16
    if name not in _DTYPES:
        raise ValueError(f"dtype {name!r} is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _kv_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    if name not in ("auto", "fp8"):
        raise ValueError(f"kv_dtype {name!r} is not one of auto, fp8")
    return FP8 if name == "fp8" else dtype
