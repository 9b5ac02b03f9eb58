"""KV of several ranks, each with memory of its own, on its way to the fabric and from it."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from engine.host_mirror import HostMirror
from engine.parallel.kv_move import KVMove
from engine.parallel.leading_model import RankLostError


class SavingRanks(Protocol):
    """The ranks above 0, which copy their heads when they are told to."""

    def send(self, message: bytes) -> None:
        """To every one of them. Raises RankLostError."""

    def wait_saved(self, count: int) -> bool:
        """Waits until each has ended `count` saves in all; False when one is lost. Called on one
        thread."""


class RankedPath:
    """An engine.kv_path.KVPath: rank 0 copies its heads and has the others copy theirs.

    A save is told to the others behind the step that it belongs to, so they begin it when they
    have queued that step.
    """

    def __init__(self, mirror: HostMirror, num_layers: int, others: SavingRanks) -> None:
        self._mirror = mirror
        self._num_layers = num_layers
        self._others = others
        self._num_saves = 0

    def save(
        self,
        block_ids: Sequence[int],
        first_layer: int,
        last_layer: int,
        then: Callable[[], None],
    ) -> None:
        self._tell(KVMove(True, tuple(block_ids), first_layer, last_layer))
        self._num_saves += 1
        told = partial(self._when_all, self._num_saves, then)
        self._mirror.save(block_ids, first_layer, last_layer, told)

    def after_saves(self, then: Callable[[], None]) -> None:
        self._mirror.after_saves(partial(self._when_all, self._num_saves, then))

    def before_pull(self) -> None:
        """The fabric writes into the host pool, which no computation uses."""

    def load(self, block_ids: Sequence[int]) -> None:
        self._tell(KVMove(False, tuple(block_ids), 0, self._num_layers))
        self._mirror.load(block_ids)

    def close(self) -> None:
        self._mirror.close()

    def _tell(self, move: KVMove) -> None:
        # Of a lost rank the next step tells; until then nothing that it lacks is called saved.
        with contextlib.suppress(RankLostError):
            self._others.send(move.pack())

    def _when_all(self, num_saves: int, then: Callable[[], None]) -> None:
        if self._others.wait_saved(num_saves):
            then()
