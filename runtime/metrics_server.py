"""The process's metrics and health over plain HTTP, for Prometheus and for a platform's probes."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from runtime.health import Health
from runtime.metrics import CONTENT_TYPE


class MetricsServer:
    """GET /metrics, /livez and /readyz on host:port, answered by its own thread.

    OSError when the port is taken. Without `health` there are only metrics.
    """

    def __init__(
        self, host: str, port: int, exposition: Callable[[], bytes], health: Health | None = None
    ) -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(exposition, health))
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(
    exposition: Callable[[], bytes], health: Health | None
) -> type[BaseHTTPRequestHandler]:
    probes = {"/livez": health.liveness, "/readyz": health.readiness} if health else {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE, exposition())
            elif probe := probes.get(self.path):
                trouble = probe()
                self._answer(503 if trouble else 200, "text/plain", f"{trouble or 'ok'}\n".encode())
            else:
                self.send_error(404)

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not logged."""

    return Handler
