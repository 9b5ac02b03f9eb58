"""How the last requests ran, by request id, and how far predictions were from it."""

from collections import OrderedDict

from router.output import RequestTrace
from runtime.metrics import Metrics


class Traces:
    """A ring of the latest ended requests; what is predicted and measured goes to the metrics."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity = capacity
        self._metrics = metrics
        self._by_id: OrderedDict[str, RequestTrace] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, request_id: str) -> RequestTrace | None:
        return self._by_id.get(request_id)

    def put(self, request_id: str, trace: RequestTrace) -> None:
        """The request has ended; a trace of the same id gives way."""
        self._by_id.pop(request_id, None)
        self._by_id[request_id] = trace
        while len(self._by_id) > self._capacity:
            self._by_id.popitem(last=False)
        for stage, error_s in trace.prediction_errors_s().items():
            histogram = self._metrics.histogram("baton_prediction_error_seconds", stage=stage)
            histogram.observe(abs(error_s))
