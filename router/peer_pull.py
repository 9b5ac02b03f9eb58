"""Has a peer publish what its cache holds of a prompt, for the worker that computes the rest."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.session import LegSink, WorkerSession
from runtime.metrics import Metrics
from wire.kv import KVHandle
from wire.messages import (
    GenerateRequest,
    LegEvent,
    LegFailed,
    LegPublished,
    LegTransferred,
    StartLeg,
)

_PATIENCE_S = 0.25  # beyond the predicted time, for the peer to answer between two of its steps


@dataclass(frozen=True, slots=True)
class PeerIsLate:
    """The peer has had its time to publish."""


class PeerPull:
    """One pull from a peer; whatever fails, the prompt is computed instead.

        ASKED --published--> PULLING --transferred--> settled
        ASKED --failed or late--> given up: the leg starts without a handle

    `go` is called once, with the handle to start the leg with, or None. Owns the leg at the peer.
    """

    def __init__(
        self,
        request: GenerateRequest,
        peer: WorkerSession,
        leg_id: int,
        expected_s: float,
        sink: Callable[[LegEvent | PeerIsLate], None],
        go: Callable[[KVHandle | None], None],
        metrics: Metrics,
    ) -> None:
        self._request = request
        self._peer = peer
        self._leg_id = leg_id
        self._wait_s = expected_s + _PATIENCE_S
        self._sink = sink
        self._go = go
        self._metrics = metrics
        self._timer: asyncio.TimerHandle | None = None
        self._has_gone = False

    def start(self, sent: tuple[int, ...]) -> None:
        """sent: the answer's tokens so far."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._wait_s, self._sink, PeerIsLate())
        leg = StartLeg(self._leg_id, self._request, sent, share=True)
        sink: LegSink = self._sink
        self._peer.start_leg(leg, sink)

    def handle(self, event: LegEvent | PeerIsLate) -> bool:
        """Takes an event that is about the peer; False for any other."""
        if isinstance(event, PeerIsLate):
            if not self._has_gone:
                self._give_up("late")
            return True
        if event.leg_id != self._leg_id:
            return False
        if isinstance(event, LegPublished) and not self._has_gone:
            self._begin(event.handle)
        elif isinstance(event, LegFailed) and not self._has_gone:
            self._give_up("refused")
        return True

    def ended(self, event: LegTransferred) -> None:
        """The worker that computes the rest has the blocks, or has given them up."""
        self._count("failed" if event.failure else "pulled")
        if event.failure:
            self._peer.cancel_leg(self._leg_id)
        else:
            self._peer.settle_leg(self._leg_id)

    def close(self) -> None:
        """Ends what is open at the peer; safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
        self._peer.cancel_leg(self._leg_id)

    def _give_up(self, outcome: str) -> None:
        self._count(outcome)
        self._peer.cancel_leg(self._leg_id)
        self._begin(None)

    def _begin(self, handle: KVHandle | None) -> None:
        self._has_gone = True
        if self._timer is not None:
            self._timer.cancel()
        self._go(handle)

    def _count(self, outcome: str) -> None:
        self._metrics.counter("baton_peer_pulls_total", outcome=outcome).inc()
