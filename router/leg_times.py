"""What the workers told about the legs of one attempt."""

from dataclasses import dataclass

from runtime.metrics import Metrics
from wire.messages import LegFinished, LegTransferred


@dataclass(slots=True)
class LegTimes:
    """transfer_failure is empty if none failed. num_cached_tokens: of the prompt."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    exposed_s: float = 0.0
    transfer_failure: str = ""
    num_cached_tokens: int = 0

    def finished(self, event: LegFinished) -> None:
        """The leg that computed the prompt has ended."""
        self.queue_s, self.prefill_s = event.queue_s, event.prefill_s
        self.num_cached_tokens = max(self.num_cached_tokens, event.num_cached_tokens)

    def transferred(self, event: LegTransferred, metrics: Metrics) -> None:
        """The pull between prefill and decode has ended."""
        outcome = "failed" if event.failure else "ok"
        metrics.counter(
            "baton_transfers_total", transport=event.transport or "none", outcome=outcome
        ).inc()
        self.transfer_failure = event.failure
        if not event.failure:
            self.transfer_s, self.exposed_s = event.transfer_s, event.exposed_s
            metrics.histogram("baton_transfer_exposed_seconds").observe(event.exposed_s)
