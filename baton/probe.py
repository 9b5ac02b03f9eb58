"""One HTTP question to one's own cluster, without a client library."""

import asyncio
import ssl

_TIMEOUT_S = 2.0


def local_host(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host


async def http_status(host: str, port: int, path: str, *, is_tls: bool = False) -> int:
    """The status of GET path; 0 when nobody answers in time.

    is_tls: over TLS, whatever the certificate is called: it is this host's own server.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                local_host(host), port, ssl=_UNVERIFIED if is_tls else None
            )
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


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_UNVERIFIED = _unverified()
