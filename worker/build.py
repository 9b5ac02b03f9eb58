"""Wires one worker: model, memory, engine, fabric and core, each made once."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from decode_worker.intake import Intake
from engine.config import ModelConfig
from engine.decode_graphs import GraphedModel
from engine.engine import Engine
from engine.fallback.config import read_config
from engine.forward import ForwardModel
from engine.grammar import GrammarMatchers
from engine.kernels.fp8_linear import FP8
from engine.kv_cache import kv_layout
from engine.kv_scaling import SCALING
from engine.memory_plan import MemoryPlan, plan_memory, step_workspace_bytes
from engine.models import Model
from engine.options import EngineConfig
from engine.weights import kept_bits
from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.preflight import Preflight
from prefill_worker.publisher import Publisher
from profiles.catalog import load_profile
from runtime.clock import Clock, SystemClock, sleep, wall_time_s
from runtime.log import get_logger
from runtime.sizes import parse_bytes
from wire.block_hash import BLOCK_SIZE
from wire.cluster import Fingerprint
from wire.kv import FabricAddress
from wire.messages import Role
from worker.commands import Pulled, Released
from worker.config import WorkerConfig
from worker.core import WorkerCore
from worker.fabric import transfer_config
from worker.fingerprint import fingerprint
from worker.host_tier import host_bytes, host_memory
from worker.inbox import Inbox
from worker.model_ranks import ModelRanks
from worker.modelled import PacedImporter, PacedPreflight, load_modelled, with_profile
from worker.pool import Pool, open_pool
from worker.speculation import Draft, make_speculator, read_draft

_NUM_LAYER_GROUPS = 8
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a running worker needs to know of what was built."""

    worker_id: str
    epoch: int
    inbox: Inbox
    core: WorkerCore
    fabric: FabricAddress
    fingerprint: Fingerprint
    max_model_len: int
    preflight: Preflight
    num_gpus: int
    hardware: str
    rank_lost: Future[str] | None = None  # None: this process computes the model alone


@contextlib.contextmanager
def build(config: WorkerConfig) -> Iterator[WorkerParts]:
    """Builds everything, and takes it down again in the opposite order.

    Raises ModelError for a directory that cannot be served, MemoryPlanError or ValueError for a
    setting that cannot be met, OSError where memory or a port cannot be had, RankLostError where
    a process that computes the model too ends meanwhile.
    """
    asked, config = config, with_profile(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    started_s = wall_time_s()
    epoch = int(started_s * 1000)
    worker_id = config.worker_id or f"{config.role.value}-{os.getpid()}"
    draft, transfer = read_draft(config), transfer_config(config)
    num_host_bytes = host_bytes(config)
    inbox, clock = Inbox(), SystemClock()
    with contextlib.ExitStack() as stack:
        ranks = ModelRanks(config.tensor_parallel, stack)
        plan, model = _load(config, draft, ranks)
        if draft is not None:
            draft.check_context(plan.max_model_len)
        pool = open_pool(plan, model.device, config.kv_device_path, stack)
        memory, kv = pool.memory, pool.kv
        options = _engine_config(config, plan, model)
        host = host_memory(num_host_bytes, kv, clock, stack)
        kv = kv[:, : options.num_blocks]
        directory = Path(config.model)
        grammars = GrammarMatchers(
            directory / "tokenizer.json", model.config.vocab_size, model.config.eos_token_ids
        )
        stack.callback(grammars.close)
        speculator = make_speculator(config, draft, model, options, clock)
        whole = ranks.joined(_with_graphs(model, kv, options), memory, plan.layout)
        engine = Engine(whole, kv, options, clock, grammars.open, speculator, host)
        secret = config.cluster_token.encode()
        exporter = Exporter(
            plan.layout, memory, worker_id, epoch, clock, secret, transfer,
            on_released=lambda seq_id: inbox.post(Released(seq_id)),
            probe_blocks=range(options.num_blocks, plan.num_blocks),
        )  # fmt: skip
        stack.callback(exporter.close)
        fabric = exporter.start(
            config.host, config.fabric_port, advertised_host=config.advertise_host
        )
        importer = _importer(config, plan, memory, clock, transfer)
        stack.callback(importer.close)
        publisher = Publisher(exporter, plan.layout.num_layers, _NUM_LAYER_GROUPS, pool.path)
        intake = Intake(
            engine, importer, BLOCK_SIZE, lambda result: inbox.post(Pulled(result)), pool.path
        )
        yield WorkerParts(
            worker_id=worker_id,
            epoch=epoch,
            inbox=inbox,
            core=WorkerCore(
                config.role,
                engine,
                publisher,
                intake,
                batch_tokens=_batch_tokens(asked, model),
                move_above=config.move_above,
            ),  # fmt: skip
            fabric=fabric,
            fingerprint=fingerprint(
                config.served_model_name or directory.resolve().name,
                directory,
                plan.layout,
                _kv_variant(plan, model),
            ),
            max_model_len=plan.max_model_len,
            preflight=_preflight(config, plan, clock, transfer, pool),
            num_gpus=_num_gpus(config, model),
            hardware=_hardware(config, model),
            rank_lost=ranks.lost,
        )


def _load(
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
    limit = config.max_model_len or model_config.max_position_embeddings
    started_s = wall_time_s()
    kv_dtype = _kv_dtype(config.kv_dtype, dtype)
    served = model_config.with_context(limit)
    model = ranks.load(directory, served, dtype, device, fp8_kv=kv_dtype == FP8)
    plan = plan_memory(
        kv_layout(model_config, kv_dtype, num_blocks=1),
        parse_bytes(config.kv_memory),
        min(limit, model_config.max_position_embeddings),
        weights_bytes=model_config.weights_bytes(dtype, kept_bits(model_config, device)),
        workspace_bytes=ranks.size
        * step_workspace_bytes(
            vocab_size=model_config.vocab_size,
            widest_row=2 * model_config.intermediate_size,
            max_batch_tokens=max(
                replace(config, role=role).batch_tokens(device.type != "cpu") for role in Role
            ),
            max_num_seqs=config.max_num_seqs,
            max_drafts=config.max_drafts if config.speculate != "off" else 0,
        ),
        draft_block_bytes=draft.block_bytes(dtype) if draft is not None else 0,
        draft_weights_bytes=draft.weights_bytes(dtype) if draft is not None else 0,
    )
    room = _engine_blocks(plan) * plan.layout.block_size
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


def _num_gpus(config: WorkerConfig, model: ForwardModel) -> int:
    """Those of the profile where there is one; a real engine computes on one device."""
    if config.profile:
        return load_profile(config.profile).num_gpus
    return int(model.device.type == "cuda")


def _hardware(config: WorkerConfig, model: ForwardModel) -> str:
    """What the operator calls it, else the profile's device or the GPU; empty on a CPU."""
    if config.hardware or config.profile:
        return config.hardware or load_profile(config.profile).name.rpartition("@")[2]
    if model.device.type != "cuda":
        return ""
    return torch.cuda.get_device_name(model.device).lower()


def _importer(
    config: WorkerConfig,
    plan: MemoryPlan,
    memory: KVMemory,
    clock: Clock,
    transfer: TransferConfig,
) -> Importer:
    secret = config.cluster_token.encode()
    if not config.profile:
        return Importer(plan.layout, memory, clock, secret, transfer)
    return PacedImporter(plan.layout, memory, clock, secret, transfer, load_profile(config.profile))


def _with_graphs(model: ForwardModel, kv: Tensor, options: EngineConfig) -> ForwardModel:
    """On CUDA, graphs for decode batches of 1, 2, 4 and so on."""
    if not isinstance(model, Model) or model.device.type != "cuda" or model.config.waits_for_device:
        return model
    sizes = [1 << bit for bit in range(options.max_running.bit_length())]
    return GraphedModel(model, kv, sizes, options.max_table_blocks)


def _batch_tokens(config: WorkerConfig, model: ForwardModel) -> dict[Role, int]:
    """The chunk budget of either role: a worker may flip."""
    on_gpu = model.device.type != "cpu"
    return {role: with_profile(replace(config, role=role)).batch_tokens(on_gpu) for role in Role}


def _engine_blocks(plan: MemoryPlan) -> int:
    """The pool's last block is kept for probes of the fabric and never holds a request's KV."""
    return max(1, plan.num_blocks - 1)


def _engine_config(config: WorkerConfig, plan: MemoryPlan, model: ForwardModel) -> EngineConfig:
    return EngineConfig(
        num_blocks=_engine_blocks(plan),
        max_model_len=plan.max_model_len,
        eos_token_ids=model.config.eos_token_ids,
        block_size=BLOCK_SIZE,
        max_batch_tokens=config.batch_tokens(model.device.type != "cpu"),
        max_num_seqs=config.max_num_seqs,
    )


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


def _kv_variant(plan: MemoryPlan, model: ForwardModel) -> str:
    """What else than files and layout decides the bytes in the cache."""
    scaling = SCALING if plan.layout.dtype == "float8_e4m3" else ""
    return "-".join(part for part in (model.config.kv_variant, scaling) if part)


def _preflight(
    config: WorkerConfig,
    plan: MemoryPlan,
    clock: SystemClock,
    transfer: TransferConfig,
    pool: Pool,
) -> Preflight:
    secret = config.cluster_token.encode()
    if not config.profile:
        return Preflight(plan.layout, clock, secret, transfer, allocate=pool.allocate)
    return PacedPreflight(plan.layout, clock, secret, transfer, load_profile(config.profile))
