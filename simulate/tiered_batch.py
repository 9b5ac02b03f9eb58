"""A modelled worker's batch whose prompts may come back from the host's memory."""

from collections.abc import Callable

from profiles.profile import Profile
from runtime.recent_median import RecentMedian
from simulate.batch import Batch, WorkerLimits
from simulate.chunk import Chunk
from simulate.kv_pool import KvPool
from simulate.leg import Leg
from simulate.stretch import Run
from simulate.tiered_pool import TieredKvPool
from wire.block_hash import BLOCK_SIZE
from wire.messages import HostLoad


def batch_of(profile: Profile, limits: WorkerLimits, now: Callable[[], float]) -> Batch:
    """The batch of a worker of that profile, with a second tier where it has one."""
    num_blocks, unit_blocks = profile.kv_tokens // BLOCK_SIZE, limits.unit_tokens // BLOCK_SIZE
    if not profile.host_kv_tokens:
        return Batch(limits, KvPool(num_blocks, unit_blocks))
    pool = TieredKvPool(num_blocks, unit_blocks, profile.host_kv_tokens // BLOCK_SIZE)
    return TieredBatch(limits, pool, profile.host_copy_s(BLOCK_SIZE), now)


class TieredBatch(Batch):
    """The engine's rules of what comes back, when, and how much at a time (engine/host_tier.py).

    One link carries both directions in order: steps wait for what comes back, and for nothing that
    goes out. What answers push out as they grow is there before the next prompt wants the link.
    """

    def __init__(
        self, limits: WorkerLimits, pool: TieredKvPool, block_s: float, now: Callable[[], float]
    ) -> None:
        """block_s: of the link."""
        super().__init__(limits, pool)
        self._tiers = pool
        self._block_s = block_s
        self._now = now
        self._block_compute_s = RecentMedian()  # of prefill
        self._link_free_s = 0.0
        self._restored_s = 0.0
        self._room = 0  # blocks that this step may still bring back
        self._restored_now = False
        self._num_restored = 0
        self._num_device_hits = 0
        self._num_host_hits = 0

    @property
    def host(self) -> HostLoad:
        slots, unit_blocks = self._tiers.host, self._tiers.unit_blocks
        return HostLoad(
            num_blocks=slots.num_slots * unit_blocks,
            num_used_blocks=slots.num_used * unit_blocks,
            block_s=self._block_s,
            num_restored_tokens=self._num_restored * BLOCK_SIZE,
            num_device_hits=self._num_device_hits,
            num_host_hits=self._num_host_hits,
        )

    def reserve(self, leg: Leg) -> bool:
        has_room = super().reserve(leg)
        self._restore(leg)
        self._give_up(leg)
        self._save()
        return has_room

    def plan(self, now_s: float) -> list[Chunk]:
        chunks = self._next_plan(now_s)
        while not (chunks or self.decoding) and self._restored_now:
            chunks = self._next_plan(now_s)  # nobody runs for whom the copies would be too many
        self._save()
        return chunks

    def take_restored_s(self) -> float:
        taken_s, self._restored_s = self._restored_s, 0.0
        return taken_s

    def decoded(self, run: Run, wait_s: float) -> None:
        num_prompt = sum(chunk.end - chunk.start for chunk in run.chunks)
        num_tokens = num_prompt + len(self.decoding)
        if 2 * num_prompt > num_tokens:
            step_s = wait_s + run.taken_s(run.count)
            self._block_compute_s.add(step_s * BLOCK_SIZE / num_tokens)
        super().decoded(run, wait_s)
        self._tiers.host.take_saves()

    def free(self, leg: Leg, num_generated: int = 0) -> None:
        self._give_up(leg)
        super().free(leg, num_generated)

    def _next_plan(self, now_s: float) -> list[Chunk]:
        room = -(-self.limits.max_batch_tokens // BLOCK_SIZE)
        self._room = max(room, int(room * self._block_compute_s.value / self._block_s))
        self._restored_now = False
        return super().plan(now_s)

    def _prefill(self, leg: Leg, budget: int, chunks: list[Chunk]) -> int:
        before = leg.num_computed
        is_whole = self._restore(leg)
        self.waiting_tokens -= leg.num_computed - before
        return super()._prefill(leg, budget, chunks) if is_whole else 0

    def _claim(self, leg: Leg, spare: int) -> bool:
        if not super()._claim(leg, spare):
            return False
        self._num_device_hits += leg.num_computed > 0
        self._num_host_hits += bool(leg.host_slots)
        return True

    def _known_units(self, leg: Leg) -> int:
        depth = self._cached_units(leg)
        return depth + self._num_behind(leg, depth)

    def _keep_behind(self, leg: Leg, depth: int) -> None:
        end = depth + self._num_behind(leg, depth)
        leg.host_slots = self._tiers.pin(leg.keys[depth:end])

    def _num_content(self, leg: Leg) -> int:
        """Full blocks of tokens that have no key; the engine keeps no others."""
        num_full = leg.num_computed // BLOCK_SIZE - leg.num_stored * self._tiers.unit_blocks
        return min(max(0, num_full), leg.num_private)

    def _num_behind(self, leg: Leg, depth: int) -> int:
        """Units that are worth their way back; the last token is always computed."""
        if 0 < self._block_compute_s.value < self._block_s:
            return 0
        most = (leg.num_known - 1) // self.limits.unit_tokens - depth
        return min(most, self._tiers.num_behind(leg.keys, depth))

    def _restore(self, leg: Leg) -> bool:
        """Brings back what the step has room for; False while something is left."""
        unit_blocks = self._tiers.unit_blocks
        num_begun = leg.num_computed // BLOCK_SIZE % unit_blocks  # of the first unit
        count = min(self._room, len(leg.host_slots) * unit_blocks - num_begun)
        if leg.host_slots and count:
            self._save()
            self._carry(count)
            self.ready_s = self._link_free_s
            leg.num_computed += count * BLOCK_SIZE
            self.store(leg)
            num_units = (num_begun + count) // unit_blocks
            self._tiers.host.unpin(leg.host_slots[:num_units])
            leg.host_slots = leg.host_slots[num_units:]
            self._room -= count
            self._num_restored += count
            self._restored_s += count * self._block_s
            self._restored_now = True
        return not leg.host_slots

    def _give_up(self, leg: Leg) -> None:
        """What has not come back is computed, or pulled."""
        self._tiers.host.unpin(leg.host_slots)
        leg.host_slots = []

    def _save(self) -> None:
        self._carry(self._tiers.host.take_saves() * self._tiers.unit_blocks)

    def _carry(self, num_blocks: int) -> None:
        if num_blocks:
            self._link_free_s = max(self._now(), self._link_free_s) + num_blocks * self._block_s
