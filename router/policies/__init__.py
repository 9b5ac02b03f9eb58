"""Named ways to choose a worker for one phase of one request."""
