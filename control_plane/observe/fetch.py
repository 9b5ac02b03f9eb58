"""One HTTP GET with a deadline, in a thread of its own: scrapes are few and small."""

import asyncio
import urllib.error
import urllib.request

from control_plane.observe.reading import ReadingError

_MAX_BYTES = 16 << 20


async def fetch(url: str, timeout_s: float, token: str = "") -> bytes:
    """The body of a 200. Raises ReadingError for everything else."""
    return await asyncio.to_thread(_get, url, timeout_s, token)


def _get(url: str, timeout_s: float, token: str) -> bytes:
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            body: bytes = reply.read(_MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode("utf-8", "replace").strip()
        raise ReadingError(f"{url} answered {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        raise ReadingError(f"cannot read {url}: {error}") from error
    if len(body) > _MAX_BYTES:
        raise ReadingError(f"{url} answered more than {_MAX_BYTES} bytes")
    return body
