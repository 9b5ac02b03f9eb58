"""Open-loop load for any OpenAI-compatible server: workloads, client, metrics, reports."""
