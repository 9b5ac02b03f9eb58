"""The services that the page is made of, over HTTP: one client, and errors with a name."""

from collections.abc import Mapping

import httpx

_TIMEOUT = httpx.Timeout(30.0, connect=3.0)
_STREAM_TIMEOUT = httpx.Timeout(3.0, read=45.0)  # its keep-alives come every 15 s
_MAX_BYTES = 64 << 20
_MAX_HOPS = 3  # from a control plane to the one that leads


class UpstreamError(Exception):
    """A service that does not answer as it should; the message names it and says why."""


class Upstream:
    """Whoever opens it closes it. Proxies of the environment are not used."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        self._client = httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT, limits=limits)

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Any answer, whatever its status; one that names the leading control plane is followed,
        with the same headers. Raises UpstreamError where there is none."""
        for _ in range(_MAX_HOPS):
            answer = await self._ask_once(method, url, body, headers, params)
            if (leader := _leader_url(answer)) is None:
                return answer
            url, params = leader, None  # its query has them
        raise UpstreamError(f"{url}: the leader changes, or no two agree who leads")

    async def _ask_once(
        self,
        method: str,
        url: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        params: Mapping[str, str] | None,
    ) -> httpx.Response:
        try:
            answer = await self._client.request(
                method, url, content=body or None, headers=headers, params=params
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UpstreamError(f"{url} does not answer: {_why(error)}") from error
        if len(answer.content) > _MAX_BYTES:
            raise UpstreamError(f"{url} answered more than {_MAX_BYTES} bytes")
        return answer

    async def get(
        self, url: str, token: str = "", params: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of a 200. Raises UpstreamError for everything else."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = await self._ask_once("GET", url, b"", headers, params)
        if answer.status_code != 200:
            raise UpstreamError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
        return answer.content

    async def stream(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        """An answer whose body comes as it is made; the caller closes it. Follows as
        `ask` does. Raises UpstreamError."""
        for _ in range(_MAX_HOPS):
            try:
                request = self._client.build_request(
                    "GET", url, headers=headers, timeout=_STREAM_TIMEOUT
                )
                answer = await self._client.send(request, stream=True)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UpstreamError(f"{url} does not answer: {_why(error)}") from error
            if (leader := _leader_url(answer)) is None:
                return answer
            await answer.aclose()
            url = leader
        raise UpstreamError(f"{url}: the leader changes, or no two agree who leads")


def _leader_url(answer: httpx.Response) -> str | None:
    return answer.headers.get("location") if answer.status_code == 307 else None


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
