"""Grafana dashboards as values: what each panel asks and what it means."""
