"""A worker whose engine takes a profile's time: its settings, its model and its fabric's pace."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from engine.config import ModelConfig
from engine.kv_cache import kv_layout
from engine.memory_plan import MemoryPlan
from engine.modelled.host_memory import ModelledHostMemory
from engine.modelled.model import ModelledModel, small_kv
from kv_transfer.config import TransferConfig
from kv_transfer.importer import Importer
from kv_transfer.matrix import Measurement
from kv_transfer.memory import KVMemory
from kv_transfer.preflight import Preflight
from kv_transfer.pull import PullResult
from profiles.catalog import load_profile, with_host_memory
from profiles.profile import Profile
from runtime.clock import Clock
from wire.block_hash import BLOCK_SIZE
from wire.kv import FabricAddress, KVHandle, KVLayout
from wire.messages import Role
from worker.config import WorkerConfig

_DEFAULT_NUM_SEQS = 64


def with_profile(config: WorkerConfig) -> WorkerConfig:
    """The settings that the profile's hardware asks for where the operator chose none.

    Raises ProfileError for a profile that does not exist.
    """
    if not config.profile:
        return config
    profile = load_profile(config.profile)
    is_prefill = config.role is Role.PREFILL
    tokens = profile.prefill_batch_tokens if is_prefill else profile.decode_batch_tokens
    num_seqs = config.max_num_seqs
    return replace(
        config,
        device="cpu",
        max_batch_tokens=config.max_batch_tokens or tokens,
        max_num_seqs=profile.max_num_seqs if num_seqs == _DEFAULT_NUM_SEQS else num_seqs,
    )


def load_modelled(
    config: WorkerConfig, clock: Clock, sleep: Callable[[float], None]
) -> tuple[MemoryPlan, ModelledModel]:
    """Takes the time that loading the weights takes; the pool has the profile's blocks.

    The model directory gives tokenizer, vocabulary and end tokens; its weights are not read.
    """
    profile = load_profile(config.profile)
    own = ModelConfig.from_directory(Path(config.model))
    limit = min(own.max_position_embeddings, profile.max_model_len, profile.kv_tokens)
    model_config = small_kv(own)
    sleep(profile.load_s)
    plan = MemoryPlan(
        layout=kv_layout(model_config, model_config.dtype, profile.kv_tokens // BLOCK_SIZE),
        weights_bytes=0,
        workspace_bytes=0,
        max_model_len=min(config.max_model_len or limit, limit),
    )
    rng = Random(f"steps-{config.worker_id}")
    return plan, ModelledModel(model_config, profile, clock, sleep, rng)


def modelled_host_memory(
    profile: Profile, num_bytes: int, model: ModelledModel, clock: Clock
) -> ModelledHostMemory | None:
    """num_bytes: of blocks of full size; 0: what the profile says. Raises ProfileError."""
    profile = with_host_memory(profile, num_bytes)
    if not profile.host_kv_tokens:
        return None
    return ModelledHostMemory(profile, model, clock)


class PacedPreflight(Preflight):
    """Probes for real, and tells of the modelled link where there is a way at all."""

    def __init__(
        self,
        layout: KVLayout,
        clock: Clock,
        secret: bytes,
        config: TransferConfig,
        profile: Profile,
    ) -> None:
        super().__init__(layout, clock, secret, config)
        self._profile = profile

    def probe(self, address: FabricAddress, worker_id: str, epoch: int) -> Measurement:
        measured = super().probe(address, worker_id, epoch)
        if not measured.transport:
            return measured
        return replace(
            measured,
            latency_s=self._profile.link_latency_s,
            bandwidth_bytes_s=self._profile.link_bytes_per_s,
        )


class PacedImporter(Importer):
    """Pulls the small blocks for real and tells of it when the modelled link would be done.

    One link into this worker carries one byte at a time: a transfer is done `S/bw` after both its
    begin and the end of those before it, and no sooner than the last layer group's share of it
    after the real pull's end, which is prefill's end.
    """

    def __init__(
        self,
        layout: KVLayout,
        memory: KVMemory,
        clock: Clock,
        secret: bytes,
        config: TransferConfig,
        profile: Profile,
    ) -> None:
        super().__init__(layout, memory, clock, secret, config)
        self._clock = clock
        self._profile = profile
        self._pace_lock = threading.Lock()
        self._link_free_s = clock.now()
        self._timers: set[threading.Timer] = set()

    def pull(
        self,
        handle: KVHandle,
        block_ids: Sequence[int],
        num_skip_blocks: int,
        on_done: Callable[[PullResult], None],
        *,
        verify_share: float | None = None,
    ) -> int:
        """As Importer.pull; on_done comes at the modelled time, from another thread."""
        begun_s = self._clock.now()
        num_tokens = max(0, handle.num_tokens - num_skip_blocks * BLOCK_SIZE)
        with self._pace_lock:
            carried_s = max(begun_s, self._link_free_s) + self._profile.kv_transfer_s(num_tokens)
            self._link_free_s = carried_s

        def paced(result: PullResult) -> None:
            if result.ok:
                self._hold(result, num_tokens, carried_s, on_done)
            else:
                on_done(result)

        return super().pull(handle, block_ids, num_skip_blocks, paced, verify_share=verify_share)

    def close(self) -> None:
        """As Importer.close; nothing that is still held back is told."""
        super().close()
        with self._pace_lock:
            timers, self._timers = self._timers, set()
        for timer in timers:
            timer.cancel()

    def _hold(
        self,
        result: PullResult,
        num_tokens: int,
        carried_s: float,
        on_done: Callable[[PullResult], None],
    ) -> None:
        now_s = self._clock.now()
        tail_s = self._profile.kv_transfer_s(num_tokens) / self._profile.num_layer_groups
        wait_s = max(now_s + tail_s, carried_s) + self._profile.link_latency_s - now_s
        told = replace(
            result,
            num_bytes=num_tokens * self._profile.kv_bytes_per_token,
            transfer_s=result.transfer_s + wait_s,
            exposed_s=result.exposed_s + wait_s,
        )

        def tell() -> None:
            with self._pace_lock:
                self._timers.discard(timer)
            on_done(told)

        timer = threading.Timer(wait_s, tell)
        timer.daemon = True
        with self._pace_lock:
            self._timers.add(timer)
        timer.start()
