"""An HTTP server of this process: its socket, and uvicorn without its hold on signals."""

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Iterator

import uvicorn

from runtime.log import get_logger

_log = get_logger("runtime")


def allow_connections() -> None:
    """A connection is a file; the usual limit of 1,024 is less than one process serves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen(host: str, port: int, what: str, *, shares_port: bool = False) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises OSError naming the address and `what`.

    shares_port: with other processes that say the same; the kernel deals connections out.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"{what}'s port {host}:{port} is not free: {error.strerror}") from error
    return listener


class HttpServer(uvicorn.Server):
    """Leaves the signals to the process, which has more to stop than this server.

    what: who listens, as the log line says it.
    """

    def __init__(
        self, config: uvicorn.Config, what: str, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(config)
        config.load()
        config.ssl = tls
        self._what = what
        self._scheme = "https" if tls else "http"
        self._is_listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError:
            for listener in sockets or ():
                listener.close()
            raise
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            _log.info(f"{self._what} listens", url=f"{self._scheme}://{host}:{port}")
        self._is_listening.set()

    async def listens(self, serving: "asyncio.Task[None]") -> None:
        """Until connections are taken, or until `serving`, its `serve`, has ended. Raises OSError
        where another process has begun to listen on the port since it was bound here."""
        waiting = asyncio.create_task(self._is_listening.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done() and isinstance(error := serving.exception(), OSError):
            raise OSError(f"{self._what} cannot listen: {error.strerror}") from error
