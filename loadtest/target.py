"""The server under test: where it is and what it is asked."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtest.errors import LoadtestError


@dataclass(frozen=True, slots=True)
class Target:
    """An HTTP server; prefix: what goes before every path."""

    host: str
    port: int
    is_tls: bool = False
    prefix: str = ""
    api_key: str = ""

    @property
    def url(self) -> str:
        return f"http{'s' if self.is_tls else ''}://{self._authority}{self.prefix}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def head(self, method: str, path: str) -> bytes:
        """The request's head up to the length of its body, which the caller appends."""
        lines = [
            f"{method} {self.prefix}{path} HTTP/1.1",
            f"Host: {self._authority}",
            "User-Agent: baton-loadtest",
            "Accept: text/event-stream, application/json",
        ]
        if self.api_key:
            lines.append(f"Authorization: Bearer {self.api_key}")
        if method == "POST":
            lines.append("Content-Type: application/json")
        return "\r\n".join(lines).encode() + b"\r\nContent-Length: "


def parse_target(url: str, api_key: str = "") -> Target:
    """`http://host:port`, with or without /v1. Raises LoadtestError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise LoadtestError(f"{url!r} is not a URL such as http://127.0.0.1:8000")
    is_tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Target(parts.hostname, port or (443 if is_tls else 80), is_tls, prefix, api_key)
