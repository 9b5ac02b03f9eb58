"""The ports that a cluster needs."""

from collections.abc import Iterator

from baton.checks.check import Check, State
from runtime.lifecycle import check_port_free


def check_cluster(ports: tuple[tuple[str, int], ...]) -> Iterator[Check]:
    """ports: what each is for, and its number."""
    for what, port in ports:
        yield _port(what, port)


def _port(what: str, port: int) -> Check:
    name = f"{what} port"
    try:
        check_port_free("127.0.0.1", port, what)
    except OSError:
        detail = f"{port} is taken (by a cluster that runs, or another program)"
        return Check(name, State.WARNING, detail)
    return Check(name, State.OK, f"{port} is free")
