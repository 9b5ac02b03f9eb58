"""Clock, settings, lifecycle, metric names, timeline, logging; knows nothing of language models."""
