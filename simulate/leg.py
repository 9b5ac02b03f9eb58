"""One request on one modelled worker."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulate.host_slots import HostSlot
from wire.block_hash import BLOCK_SIZE


@dataclass(slots=True, eq=False)
class Leg:
    """The mutable record of a leg; its worker changes it.

        prefill, whole:  waiting -> prefilling -> held (prefill only) | decoding -> finished
        decode:          waiting -> pulling -> decoding -> finished
        share:           held (what the cache has of its tokens), or refused
        behind a share, or a pull that failed:  waiting -> pulling -> prefilling -> as above
        preempted:       decoding -> waiting;   any of them -> cancelled

    num_known: prompt plus output tokens known when the leg (re)starts or begins to decode.
    num_left: output tokens that it still gives. source: the leg whose KV it pulls.
    first_index: of its first token in the answer.
    """

    leg_id: int
    request_id: str
    num_known: int
    num_left: int
    keys: tuple[int, ...]  # of the whole units of prompt and, where it is known, answer
    prefill_only: bool = False
    is_share: bool = False
    source: "Leg | None" = None
    first_index: int = 0
    worker_id: str = ""
    order: int = 0
    num_computed: int = 0
    num_cached: int = 0  # when it was accepted
    num_told: int = 0  # tokens from first_index on that went to the router
    held: list[int] = field(default_factory=list)  # units that this leg references
    num_stored: int = 0  # leading units that were offered to the cache
    num_private: int = 0  # blocks outside of `held`
    host_slots: list[HostSlot] = field(default_factory=list)  # units to come back, pinned
    was_scheduled: bool = False
    is_complete: bool = False  # all KV of a prefill leg is there
    is_lost: bool = False  # its KV is gone before it was pulled
    is_cancelled: bool = False
    start_step: int = 0  # of the worker, when decoding began
    finish_step: int = 0
    added_s: float = 0.0
    scheduled_s: float = 0.0
    first_s: float = 0.0  # of its first token
    num_pulled: int = 0  # tokens that its pull moves
    pull_begun_s: float = 0.0
    pull_carried_s: float = 0.0  # the link is done with it, if prefill is
    pull_tail_s: float = 0.0
    prefilled_s: float = 0.0  # the reader knows that prefill has ended
    pull_ended: bool = False
    pull_ended_s: float = 0.0
    arrived_s: float = 0.0  # all its KV, and its first token with it
    on_complete: Callable[[], None] | None = None  # set by the reader's worker
    on_lost: Callable[[], None] | None = None  # set by the reader's worker
    on_frozen: Callable[[float], None] | None = None  # set by the reader's worker
    release: Callable[[], None] | None = None  # set by the prefill leg's worker
    times: list[npt.NDArray[np.float64]] = field(default_factory=list)  # of tokens, in parts

    # Of the tokens that its present batch has given it; set while it decodes.
    running_times: "Callable[[Leg], npt.NDArray[np.float64]] | None" = None

    def known_times(self) -> npt.NDArray[np.float64]:
        """When each token came so far, a pulled first one left out.  # [num_tokens]"""
        parts = (
            self.times if self.running_times is None else [*self.times, self.running_times(self)]
        )
        return np.concatenate(parts) if parts else np.empty(0)

    def forget_reader(self) -> None:
        """Its pull has ended. Whoever is done with a leg leaves no cycle for the collector."""
        self.on_complete = self.on_lost = self.on_frozen = None

    @property
    def num_blocks(self) -> int:
        """Blocks of all known tokens."""
        return -(-self.num_known // BLOCK_SIZE)
