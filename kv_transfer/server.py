"""The source's ports: accepts readers, proves them, and gives each connection a thread."""

import socket
import threading
from collections.abc import Callable, Mapping

from kv_transfer.channel import Channel, Waker, wait_readable
from kv_transfer.control_session import ControlSession
from kv_transfer.data_session import DataSession
from kv_transfer.device import DeviceMemory
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity, admit
from kv_transfer.sessions import Source
from kv_transfer.transports.services import Service
from kv_transfer.transports.shm import hand_out, listen_abstract
from runtime.log import Logger

_BACKLOG = 128
_TICK_S = 0.5  # at most this late a lease ends
_MIN_TICK_S = 0.01


class Server:
    """Listens until closed. Owns every socket and thread of the source's side."""

    def __init__(self, source: Source, me: Identity, secret: bytes, log: Logger) -> None:
        self._source = source
        self._me = me
        self._secret = secret
        self._log = log
        self._waker = Waker()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, Channel] = {}
        self._services: Mapping[str, Service] = {}
        self._is_closing = False
        self._listeners: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept_loop, name="kv-accept")

    def start(self, host: str, port: int, services: Mapping[str, Service]) -> tuple[int, str]:
        """Gives the TCP port and the name of the Unix socket, empty without shared memory.
        services: by the purpose of the connections that they serve; the caller closes them.

        Raises OSError when the port is not free.
        """
        self._services = services
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._listeners.append(listener)
        shm_path = ""
        if self._source.memory.is_shared:
            unix, shm_path = listen_abstract(_BACKLOG)
            self._listeners.append(unix)
        self._acceptor.start()
        return int(listener.getsockname()[1]), shm_path

    def poke(self) -> None:
        """Has the acceptor look at the leases."""
        self._waker.wake()

    def close(self) -> None:
        """Returns once every thread has ended; safe to call twice."""
        with self._lock:
            self._is_closing = True
            channels = list(self._open.values())
        self._waker.wake()
        for channel in channels:
            channel.shutdown()
        if self._acceptor.is_alive():
            self._acceptor.join()
        for thread in list(self._open):
            thread.join()
        for listener in self._listeners:
            listener.close()
        self._waker.close()

    def _accept_loop(self) -> None:
        while not self._is_closing:
            next_s = self._source.exports.expire()
            wait_s = None if next_s is None else min(max(next_s, _MIN_TICK_S), _TICK_S)
            fds = [self._waker.fd, *(listener.fileno() for listener in self._listeners)]
            readable = wait_readable(fds, wait_s)
            if self._waker.fd in readable:
                self._waker.clear()
            for listener in self._listeners:
                if listener.fileno() in readable:
                    self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        """One connection. Where the process has no descriptor or thread left, it waits a little:
        the connection stays in the backlog or is closed."""
        try:
            sock, _ = listener.accept()
            self._begin(sock)
        except (OSError, RuntimeError, TransferError) as error:
            self._log.warning("cannot accept a kv connection", error=repr(error))
            wait_readable([self._waker.fd], _TICK_S)

    def _begin(self, sock: socket.socket) -> None:
        """Gives the connection a thread. Raises RuntimeError when none can be started."""
        with self._lock:
            if self._is_closing or len(self._open) >= self._source.config.max_connections:
                sock.close()
                return
            channel = Channel(sock, self._source.config.stall_s)
            thread = threading.Thread(target=self._serve, args=(channel,), name="kv-serve")
            self._open[thread] = channel
            try:
                thread.start()
            except RuntimeError:
                del self._open[thread]
                channel.close()
                raise

    def _serve(self, channel: Channel) -> None:
        config = self._source.config
        try:
            if config.tls is not None and channel.sock.family != socket.AF_UNIX:
                channel.secure(config.tls.source, config.connect_s, serves=True)
            purpose = admit(
                channel,
                self._secret,
                self._me,
                self._source.layout.num_blocks,
                config.connect_s,
            )
            self._run_session(purpose, channel)
        except TransferError as error:
            if error.reason is not FailReason.PEER_LOST:
                self._log.warning("kv connection ended", reason=error.reason, message=str(error))
        except Exception as error:  # a thread's edge: other readers go on
            self._log.error("kv connection failed", error=repr(error))
        finally:
            with self._lock:
                del self._open[threading.current_thread()]
                channel.close()

    def _run_session(self, purpose: str, channel: Channel) -> None:
        if purpose == "memory" and channel.sock.family == socket.AF_UNIX:
            hand_out(channel, self._source.memory, self._source.config.connect_s)
            return
        if purpose in self._services:
            self._services[purpose].serve(channel)
            return
        kinds: dict[str, Callable[[Channel, Source], ControlSession | DataSession]] = {
            "control": ControlSession,
            "data": DataSession,
        }
        if purpose == "data" and isinstance(self._source.memory, DeviceMemory):
            raise TransferError(FailReason.TRANSPORT, "sockets do not reach a device's memory")
        if purpose not in kinds:
            raise TransferError(FailReason.MALFORMED, f"no service called {purpose[:40]!r}")
        session = kinds[purpose](channel, self._source)
        try:
            session.run()
        finally:
            session.close()
