"""One module a transport: memory, shm, tcp, and faulty, which decorates any of them."""
