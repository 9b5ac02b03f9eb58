"""What a cluster needs around its processes: ports, optional services."""

from collections.abc import Iterator

from baton.checks.check import Check, State
from runtime.lifecycle import check_port_free

_OPTIONAL_SERVICES = (("Redis", "state stays in memory"), ("Kubernetes", "processes are local"))


def check_cluster(ports: tuple[tuple[str, int], ...]) -> Iterator[Check]:
    """ports: what each is for, and its number."""
    for what, port in ports:
        yield _port(what, port)
    for service, instead in _OPTIONAL_SERVICES:
        yield Check(service, State.ABSENT, f"not configured; {instead}")


def _port(what: str, port: int) -> Check:
    name = f"{what} port"
    try:
        check_port_free("127.0.0.1", port, what)
    except OSError:
        detail = f"{port} is taken (by a cluster that runs, or another program)"
        return Check(name, State.WARNING, detail)
    return Check(name, State.OK, f"{port} is free")
