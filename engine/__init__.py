"""Model, paged KV cache and kernels; no networking."""
