"""One HTTP question to one's own cluster, without a client library."""

import asyncio

_TIMEOUT_S = 2.0


def local_host(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host


async def http_status(host: str, port: int, path: str) -> int:
    """The status of GET path; 0 when nobody answers in time."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(local_host(host), port)
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0
    parts = line.split()
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
