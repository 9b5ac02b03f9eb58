"""The decode phase on a worker: KV is pulled in, then sequences join the batch."""
