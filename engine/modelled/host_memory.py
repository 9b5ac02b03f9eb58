"""The second tier of a modelled worker's cache: it holds no bytes, and takes a profile's time."""

from collections.abc import Mapping

from engine.modelled.model import ModelledModel
from profiles.profile import Profile
from runtime.clock import Clock
from wire.block_hash import BLOCK_SIZE


class ModelledHostMemory:
    """As StagedHostMemory: one link carries both directions, a block at a time and in order.
    Nothing waits for a save; the model's next step waits for a load.

    A modelled cache is never written, so that there is nothing to copy.
    """

    def __init__(self, profile: Profile, model: ModelledModel, clock: Clock) -> None:
        """profile: of a worker with such a tier, as profiles.catalog checks it."""
        self.num_slots = profile.host_kv_tokens // BLOCK_SIZE
        self.block_s = profile.host_copy_s(BLOCK_SIZE)
        self._model = model
        self._clock = clock
        self._free_s = clock.now()  # of the link

    def save(self, slots: Mapping[int, int]) -> None:
        self._carry(len(slots))

    def load(self, slots: Mapping[int, int]) -> None:
        self._carry(len(slots))
        self._model.begin_no_sooner(self._free_s)

    def close(self) -> None:
        """There is nothing to give back."""

    def _carry(self, num_blocks: int) -> None:
        if num_blocks:
            self._free_s = max(self._clock.now(), self._free_s) + num_blocks * self.block_s
