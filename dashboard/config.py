"""The settings of one dashboard process."""

from dataclasses import dataclass

DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True)
class DashboardConfig:
    """Whom the page shows.

    operator_url: of the control plane's operator API. gateway_urls: of the gateways, parted by
    commas; empty: requests and latencies are not shown. gateway_key: sent to gateways that ask for
    an API key. prometheus_url: where history is asked for; empty: the control plane's own.
    parent_pid 0: this process outlives the one that started it.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    operator_url: str = "http://127.0.0.1:8091"
    gateway_urls: str = "http://127.0.0.1:8000"
    gateway_key: str = ""
    prometheus_url: str = ""
    prometheus_token: str = ""
    parent_pid: int = 0
    log_level: str = "info"

    @property
    def gateways(self) -> tuple[str, ...]:
        """Without a slash at the end."""
        found = (url.strip().rstrip("/") for url in self.gateway_urls.split(","))
        return tuple(url for url in found if url)
