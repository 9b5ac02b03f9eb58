"""What a cluster may use beside its own processes: stores, platforms, certificates, metrics."""

import importlib.metadata
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from baton.checks.check import Check, State

_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Services:
    """What is set on this host; an empty string is none. kubeconfig empty: where clients look."""

    redis_url: str = ""
    prometheus_url: str = ""
    kubeconfig: str = ""
    tls_certificate: str = ""
    tls_key: str = ""


def check_services(services: Services) -> Iterator[Check]:
    yield _redis(services.redis_url)
    yield _kubernetes(services.kubeconfig)
    yield _package("Ray", "ray", "workers are processes of this host or pods")
    yield _package("OpenTelemetry", "opentelemetry-sdk", "no spans are written")
    yield _tls(services.tls_certificate, services.tls_key)
    yield _prometheus(services.prometheus_url)


def _redis(url: str) -> Check:
    if not url:
        detail = "BATON_REDIS_URL is not set; state stays in memory, one control plane acts"
        return Check("Redis", State.ABSENT, detail)
    from redis import Redis, RedisError

    try:
        with Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S) as r:
            r.ping()
            where = "{host}:{port}".format(**{"port": 6379, **r.get_connection_kwargs()})
    except (RedisError, OSError, ValueError, KeyError) as error:
        return Check("Redis", State.WARNING, f"does not answer: {error}")
    return Check("Redis", State.OK, f"{where} answers")


def _kubernetes(kubeconfig: str) -> Check:
    from control_plane.actuators.kube_api import KubeError, connect

    try:
        api = connect(kubeconfig)
    except KubeError as error:
        return Check("Kubernetes", State.ABSENT, f"{error}; processes are local")
    with api:
        return Check("Kubernetes", State.OK, f"configured: {api.configuration.host}")


def _package(name: str, package: str, instead: str) -> Check:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, State.ABSENT, f"{package} is not installed; {instead}")
    return Check(name, State.OK, f"{package} {version} is installed")


def _tls(certificate: str, key: str) -> Check:
    if not certificate:
        return Check("TLS", State.ABSENT, "BATON_TLS_CERTIFICATE is not set; plain HTTP")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key or None)
    except OSError as error:  # ssl.SSLError is one
        files = f"{certificate} and {key}" if key else certificate
        return Check("TLS", State.WARNING, f"{files} cannot be used: {error}")
    return Check("TLS", State.OK, f"{certificate} and its key are readable and belong together")


def _prometheus(url: str) -> Check:
    if not url:
        detail = "BATON_PROMETHEUS_URL is not set; gateways' own figures are read"
        return Check("Prometheus", State.ABSENT, detail)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/api/v1/query?query=1", timeout=_TIMEOUT_S) as answer:
            answer.read(1 << 16)
    except (OSError, ValueError) as error:
        return Check("Prometheus", State.WARNING, f"{url} does not answer: {error}")
    return Check("Prometheus", State.OK, f"{url} answers queries")
