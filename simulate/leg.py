"""One request on one modelled worker."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wire.block_hash import BLOCK_SIZE


@dataclass(slots=True, eq=False)
class Leg:
    """The mutable record of a leg; its worker changes it.

        prefill, whole:  waiting -> prefilling -> held (prefill only) | decoding -> finished
        decode:          waiting -> pulling -> decoding -> finished
        preempted:       decoding -> waiting

    num_known: prompt plus output tokens known when the leg (re)starts or begins to decode.
    num_left: output tokens that it still gives. source: the leg whose KV it pulls.
    """

    leg_id: int
    request_index: int
    num_known: int
    num_left: int
    keys: tuple[int, ...]  # of the prompt's whole units
    prefill_only: bool = False
    source: "Leg | None" = None
    order: int = 0
    num_computed: int = 0
    held: list[int] = field(default_factory=list)  # units that this leg references
    num_stored: int = 0  # leading units that were offered to the cache
    num_private: int = 0  # blocks outside of `held`
    was_scheduled: bool = False
    is_complete: bool = False  # all KV of a prefill leg is there
    start_step: int = 0  # of the worker, when decoding began
    finish_step: int = 0
    added_s: float = 0.0
    scheduled_s: float = 0.0
    pull_begun_s: float = 0.0
    pull_carried_s: float = 0.0  # the link is done with it, if prefill is
    pull_tail_s: float = 0.0
    prefilled_s: float = 0.0  # the reader knows that prefill has ended
    arrived_s: float = 0.0
    on_complete: Callable[[], None] | None = None  # set by the reader's worker
    release: Callable[[], None] | None = None  # set by the prefill leg's worker
    times: list[npt.NDArray[np.float64]] = field(default_factory=list)  # of tokens, in parts

    @property
    def num_blocks(self) -> int:
        """Blocks of all known tokens."""
        return -(-self.num_known // BLOCK_SIZE)
