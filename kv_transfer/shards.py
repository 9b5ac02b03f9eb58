"""One pull from several sources, each of which holds a share of the model's KV heads."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from kv_transfer.errors import FailReason
from kv_transfer.pull import PullResult


class ShardedPull:
    """Gathers the results of its parts; `on_done` is called once, when the last part has ended.

    A part that fails has the others cancelled, so that no source holds blocks in vain. The caller
    knows the whole by the ticket of its first part.
    """

    def __init__(
        self,
        heads: range,
        num_parts: int,
        cancel: Callable[[int], None],
        on_done: Callable[[PullResult], None],
    ) -> None:
        """heads: the model's KV heads that the reader needs. cancel: ends a part by ticket."""
        self._heads = heads
        self._num_parts = num_parts
        self._cancel = cancel
        self._on_done = on_done
        self._tickets: list[int] = []
        self._results: list[PullResult] = []
        self._first_failure: PullResult | None = None
        self._lock = threading.Lock()

    def begun(self, tickets: Sequence[int]) -> None:
        """Parts that failed before this are followed by the others."""
        with self._lock:
            self._tickets = list(tickets)
            has_failed = self._first_failure is not None
        if has_failed:
            self.cancel()

    def cancel(self) -> None:
        for ticket in self._tickets:
            self._cancel(ticket)

    def ended(self, result: PullResult) -> None:
        """A part has ended; called from its link's thread."""
        with self._lock:
            self._results.append(result)
            is_first_failure = not result.ok and self._first_failure is None
            if is_first_failure:
                self._first_failure = result
            is_last = len(self._results) == self._num_parts
        if is_last:
            self._on_done(replace(self._whole(), ticket=min(r.ticket for r in self._results)))
        elif is_first_failure:
            self.cancel()

    def _whole(self) -> PullResult:
        results = self._results
        if self._first_failure is not None:
            return self._first_failure
        covered = {head for result in results for head in result.kv_heads}
        if missing := [head for head in self._heads if head not in covered]:
            text = f"no source holds the KV heads {missing}"
            return replace(results[0], ok=False, reason=FailReason.LAYOUT_MISMATCH, error=text)
        return replace(
            results[0],
            num_bytes=sum(result.num_bytes for result in results),
            num_verified=sum(result.num_verified for result in results),
            transfer_s=max(result.transfer_s for result in results),
            exposed_s=max(result.exposed_s for result in results),
            kv_heads=self._heads,
        )
