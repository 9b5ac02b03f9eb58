"""The prefill phase on a worker: sequences whose KV is published while it is computed."""
