"""From a gateway's /metrics to the few figures that the page shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

REQUESTS = "baton_requests_accepted_total"
OUTPUT = "baton_output_tokens_total"
REFUSED = "baton_admission_refused_total"
QUEUED = "baton_admission_queued"
IN_FLIGHT = "baton_requests_in_flight"
GOODPUT = "baton_goodput_total"
STEP_ERROR = "baton_predictor_error_ratio"
NAMES = (REQUESTS, OUTPUT, REFUSED, QUEUED, IN_FLIGHT, GOODPUT, STEP_ERROR)


@dataclass(frozen=True, slots=True)
class Figures:
    """sums: by name, counters of goodput by name|met. step_errors: by worker."""

    sums: Mapping[str, float] = field(default_factory=dict)
    step_errors: Mapping[str, float] = field(default_factory=dict)


def read_figures(text: str) -> Figures:
    """Raises ValueError for what is no exposition."""
    wanted = [line for line in text.splitlines() if line.startswith(NAMES)]
    sums: dict[str, float] = {}
    errors: dict[str, float] = {}
    for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
        for sample in family.samples:
            if sample.name == STEP_ERROR:
                errors[sample.labels.get("worker", "")] = sample.value
                continue
            key = sample.name
            if sample.name == GOODPUT:
                key = f"{GOODPUT}|{sample.labels.get('met', '')}"
            sums[key] = sums.get(key, 0.0) + sample.value
    return Figures(sums, errors)
