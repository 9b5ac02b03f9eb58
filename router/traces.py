"""How the last requests ran, by request id, and how far predictions were from it."""

from collections import OrderedDict
from collections.abc import Callable
from heapq import nlargest
from itertools import islice

from router.answer_meter import AnswerMeter
from router.output import RequestTrace
from runtime.metrics import Metrics

NamedTrace = tuple[str, RequestTrace]


class Traces:
    """A ring of the latest ended requests; what is predicted and measured goes to the metrics.

    tell: hears of every request that has ended, as a log does.
    """

    def __init__(
        self,
        capacity: int,
        metrics: Metrics,
        tell: Callable[[str, RequestTrace], None] | None = None,
    ) -> None:
        self._capacity = capacity
        self._metrics = metrics
        self._answers = AnswerMeter(metrics)
        self._tell = tell
        self._by_id: OrderedDict[str, RequestTrace] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, request_id: str) -> RequestTrace | None:
        return self._by_id.get(request_id)

    def latest(self, count: int) -> list[NamedTrace]:
        """The last that ended, the last one first."""
        return list(islice(reversed(self._by_id.items()), count))

    def slowest(self, count: int) -> list[NamedTrace]:
        """Those that took longest to their first token, or to their end where none came."""
        return nlargest(count, self._by_id.items(), key=lambda item: _slowness_s(item[1]))

    def began(self, num_prompt: int, num_cached: int, is_local: bool) -> None:
        """A request has its first token; so many of its prompt's tokens were cached. is_local: by
        choice, a decode worker computed the others."""
        self._answers.began(num_prompt, num_cached, is_local)

    def put(self, request_id: str, trace: RequestTrace) -> None:
        """The request has ended; a trace of the same id gives way."""
        self._by_id.pop(request_id, None)
        self._by_id[request_id] = trace
        while len(self._by_id) > self._capacity:
            self._by_id.popitem(last=False)
        self._answers.ended(trace)
        for stage, error_s in trace.prediction_errors_s().items():
            histogram = self._metrics.histogram("baton_prediction_error_seconds", stage=stage)
            histogram.observe(abs(error_s))
        if self._tell is not None:
            self._tell(request_id, trace)


def _slowness_s(trace: RequestTrace) -> float:
    return trace.ttft_s or trace.total_s
