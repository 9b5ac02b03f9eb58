"""The socket that a gateway listens on, alone or with other processes of its host."""

import resource
import socket


def allow_connections() -> None:
    """A connection is a file; the usual limit of 1,024 is less than one process serves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen(host: str, port: int, *, shares_port: bool = False) -> socket.socket:
    """A bound socket. Raises OSError naming the address.

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
        reason = f"the gateway's port {host}:{port} is not free: {error.strerror}"
        raise OSError(reason) from error
    return listener
