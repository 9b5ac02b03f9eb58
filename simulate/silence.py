"""What a simulated router leaves out: metrics that nobody scrapes, forecasts that no rule reads."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from router.load import WorkerLoad
from router.outlook import Outlook, WorkerForecast
from runtime.metrics import Metrics
from wire.messages import StepTotals


class _Sink:
    """Takes every observation and keeps none."""

    def inc(self, amount: float = 1) -> None: ...

    def dec(self, amount: float = 1) -> None: ...

    def set(self, value: float) -> None: ...

    def observe(self, amount: float) -> None: ...

    def remove(self, *labels: str) -> None: ...

    def track_inprogress(self) -> AbstractContextManager[None]:
        return nullcontext()


class SilentMetrics(Metrics):
    """Any name, any labels, nothing kept."""

    def __init__(self) -> None:
        super().__init__(())
        self._sink: Any = _Sink()

    def counter(self, name: str, **labels: str) -> Any:
        return self._sink

    def gauge(self, name: str, **labels: str) -> Any:
        return self._sink

    def histogram(self, name: str, **labels: str) -> Any:
        return self._sink


class BlindForecast(WorkerForecast):
    """Learns nothing and predicts nothing: for rules that read no forecast, at a scale where
    learning costs more than all else. Admission then knows the number under way alone."""

    def reported(self, totals: StepTotals, now_s: float) -> None:
        """Nothing is learned."""

    def transferred(self, num_tokens: int, num_bytes: int, transfer_s: float) -> None:
        """Nothing is learned."""

    def outlook(self, load: WorkerLoad) -> Outlook | None:
        return None
