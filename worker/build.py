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
from engine.decode_graphs import GraphedModel
from engine.engine import Engine
from engine.forward import ForwardModel
from engine.grammar import GrammarMatchers
from engine.host_memory import HostMemory
from engine.kv_scaling import SCALING
from engine.memory_plan import MemoryPlan
from engine.modelled.model import ModelledModel
from engine.models import Model
from engine.options import EngineConfig
from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.preflight import Preflight
from prefill_worker.publisher import Publisher
from profiles.catalog import load_profile
from runtime.clock import Clock, SystemClock, wall_time_s
from wire.block_hash import BLOCK_SIZE
from wire.cluster import Fingerprint
from wire.kv import FabricAddress
from wire.messages import Role
from worker.commands import Pulled, Released
from worker.config import WorkerConfig
from worker.core import WorkerCore
from worker.drafts import Draft
from worker.fabric import transfer_config
from worker.fingerprint import fingerprint
from worker.host_tier import host_bytes, host_memory
from worker.inbox import Inbox
from worker.loading import engine_blocks, load_model
from worker.model_ranks import ModelRanks
from worker.modelled import PacedImporter, PacedPreflight, modelled_host_memory, with_profile
from worker.pool import Pool, open_pool
from worker.speculation import make_speculator, read_draft

_NUM_LAYER_GROUPS = 8


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


@dataclass(frozen=True, slots=True)
class _Site:
    """What one worker's parts are made of; they close with the stack."""

    config: WorkerConfig
    plan: MemoryPlan
    model: ForwardModel
    pool: Pool
    transfer: TransferConfig
    stack: contextlib.ExitStack
    inbox: Inbox
    clock: Clock

    @property
    def secret(self) -> bytes:
        return self.config.cluster_token.encode()


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
    epoch = int(wall_time_s() * 1000)
    worker_id = config.worker_id or f"{config.role.value}-{os.getpid()}"
    draft, transfer = read_draft(config), transfer_config(config)
    num_host_bytes = host_bytes(config)
    with contextlib.ExitStack() as stack:
        ranks = ModelRanks(config.tensor_parallel, stack)
        plan, model = load_model(config, draft, ranks)
        if draft is not None:
            draft.check_context(plan.max_model_len)
        pool = _open_pool(config, plan, model, ranks, stack)
        site = _Site(config, plan, model, pool, transfer, stack, Inbox(), SystemClock())
        engine = _engine(site, draft, ranks, num_host_bytes)
        exporter = _exporter(site, worker_id, epoch)
        fabric = exporter.start(
            config.host, config.fabric_port, advertised_host=config.advertise_host
        )
        core = _core(site, engine, exporter, _batch_tokens(asked, model))
        yield WorkerParts(
            worker_id=worker_id,
            epoch=epoch,
            inbox=site.inbox,
            core=core,
            fabric=fabric,
            fingerprint=_fingerprint(site),
            max_model_len=plan.max_model_len,
            preflight=_preflight(site),
            num_gpus=_num_gpus(config, model) * ranks.size,
            hardware=_hardware(config, model),
            rank_lost=ranks.lost,
        )


def _open_pool(
    config: WorkerConfig,
    plan: MemoryPlan,
    model: ForwardModel,
    ranks: ModelRanks,
    stack: contextlib.ExitStack,
) -> Pool:
    """As open_pool; of ranks with memory of their own, in host memory."""
    if not ranks.have_own_kv(model.device):
        return open_pool(plan, model.device, config.kv_device_path, stack)
    pool = open_pool(plan, torch.device("cpu"), "host", stack)
    return replace(pool, path=ranks.path(model, pool.kv))


def _engine(site: _Site, draft: Draft | None, ranks: ModelRanks, num_host_bytes: int) -> Engine:
    """num_host_bytes: of the cache's second tier; 0: none."""
    config, plan, model, pool, clock = site.config, site.plan, site.model, site.pool, site.clock
    options = _engine_config(config, plan, model)
    host = _host_memory(site, num_host_bytes)
    kv = pool.kv[:, : options.num_blocks]
    grammars = GrammarMatchers(
        Path(config.model) / "tokenizer.json", model.config.vocab_size, model.config.eos_token_ids
    )
    site.stack.callback(grammars.close)
    speculator = make_speculator(config, draft, model, options, clock)
    graphed = _with_graphs(model, kv, options) if ranks.size == 1 else model
    whole = ranks.joined(graphed, pool.memory, plan.layout)
    return Engine(whole, kv, options, clock, grammars.open, speculator, host)


def _host_memory(site: _Site, num_bytes: int) -> HostMemory | None:
    model, clock = site.model, site.clock
    if isinstance(model, ModelledModel):
        return modelled_host_memory(load_profile(site.config.profile), num_bytes, model, clock)
    return host_memory(num_bytes, site.pool.kv, clock, site.stack)


def _exporter(site: _Site, worker_id: str, epoch: int) -> Exporter:
    plan, inbox = site.plan, site.inbox
    exporter = Exporter(
        plan.layout, site.pool.memory, worker_id, epoch, site.clock, site.secret, site.transfer,
        on_released=lambda seq_id: inbox.post(Released(seq_id)),
        probe_blocks=range(engine_blocks(plan), plan.num_blocks),
    )  # fmt: skip
    site.stack.callback(exporter.close)
    return exporter


def _core(
    site: _Site, engine: Engine, exporter: Exporter, batch_tokens: dict[Role, int]
) -> WorkerCore:
    path, inbox = site.pool.path, site.inbox
    importer = _importer(site)
    site.stack.callback(importer.close)
    return WorkerCore(
        site.config.role,
        engine,
        Publisher(exporter, site.plan.layout.num_layers, _NUM_LAYER_GROUPS, path),
        Intake(engine, importer, BLOCK_SIZE, lambda result: inbox.post(Pulled(result)), path),
        batch_tokens=batch_tokens,
        move_above=site.config.move_above,
    )


def _fingerprint(site: _Site) -> Fingerprint:
    directory, plan = Path(site.config.model), site.plan
    name = site.config.served_model_name or directory.resolve().name
    return fingerprint(name, directory, plan.layout, _kv_variant(plan, site.model))


def _num_gpus(config: WorkerConfig, model: ForwardModel) -> int:
    """Those of the profile where there is one; each rank of a real engine has one."""
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


def _importer(site: _Site) -> Importer:
    parts = (site.plan.layout, site.pool.memory, site.clock, site.secret, site.transfer)
    if not site.config.profile:
        return Importer(*parts)
    return PacedImporter(*parts, load_profile(site.config.profile))


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


def _engine_config(config: WorkerConfig, plan: MemoryPlan, model: ForwardModel) -> EngineConfig:
    return EngineConfig(
        num_blocks=engine_blocks(plan),
        max_model_len=plan.max_model_len,
        eos_token_ids=model.config.eos_token_ids,
        block_size=BLOCK_SIZE,
        max_batch_tokens=config.batch_tokens(model.device.type != "cpu"),
        max_num_seqs=config.max_num_seqs,
    )


def _kv_variant(plan: MemoryPlan, model: ForwardModel) -> str:
    """What else than files and layout decides the bytes in the cache."""
    scaling = SCALING if plan.layout.dtype == "float8_e4m3" else ""
    return "-".join(part for part in (model.config.kv_variant, scaling) if part)


def _preflight(site: _Site) -> Preflight:
    parts = (site.plan.layout, site.clock, site.secret, site.transfer)
    if not site.config.profile:
        return Preflight(*parts, allocate=site.pool.allocate)
    return PacedPreflight(*parts, load_profile(site.config.profile))
