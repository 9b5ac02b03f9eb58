"""The declared metrics are what a process exports."""

from runtime.metrics import ALL_METRICS, GATEWAY_METRICS, Metrics


def test_names_are_unique_and_follow_prometheus_conventions() -> None:
    names = [spec.name for spec in ALL_METRICS]
    assert len(names) == len(set(names))
    for spec in ALL_METRICS:
        assert spec.name.startswith("baton_")
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name


def test_the_exposition_holds_what_was_counted() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    metrics.counter("baton_retries_total", reason="worker_lost").inc()
    assert b'baton_retries_total{reason="worker_lost"} 1.0' in metrics.exposition()
