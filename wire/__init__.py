"""Everything that crosses a process: messages, KV handles, errors, block hashes, codec, rpc."""
