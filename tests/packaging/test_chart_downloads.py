"""The init container that fetches a model: its command as rendered, against a real server."""

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_objects import Object, named, objects

TOKEN = "a-token-of-the-store"
FILES = ["config.json", "weights/model-00001.safetensors"]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Store(http.server.SimpleHTTPRequestHandler):
    """Gives files to whoever shows the token; the first request of each file fails."""

    failed: set[str]

    def do_GET(self) -> None:
        """Also 404 for what is not there."""
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send_error(401)
        elif self.path not in self.failed:
            self.failed.add(self.path)
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "store" / "qwen"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the bytes of {name}")

    class OfThisTest(Store):
        failed: set[str] = set()

        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder.parent))  # type: ignore[arg-type]

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OfThisTest)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/qwen/"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(
    owner: str, base_url: str, folder: Path, token: str
) -> "subprocess.CompletedProcess[str]":
    """Runs what the init container of the owner's pods runs, with the volume at a folder."""
    download = {"baseUrl": base_url, "files": FILES, "tokenSecret": "store"}
    things = objects({"model": {"source": "download", "path": "big", "download": download}})
    [init] = named(things, "Deployment", owner)["spec"]["template"]["spec"]["initContainers"]
    [mount] = init["volumeMounts"]
    assert value_of(init, "MODEL_TOKEN") == {"name": "store", "key": "token"}
    words = [word.replace(mount["mountPath"], str(folder)) for word in init["command"]]
    words = [token if word == "$(MODEL_TOKEN)" else word for word in words]  # as the kubelet does
    words = ["1" if word == "8" else word for word in words]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def value_of(container: Object, name: str) -> object:
    [entry] = [entry for entry in container["env"] if entry["name"] == name]
    return entry["valueFrom"]["secretKeyRef"]


def test_each_file_comes_with_the_token_also_at_a_second_try(store: str, tmp_path: Path) -> None:
    done = fetch("baton-decode", store, tmp_path, TOKEN)
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (tmp_path / "big" / name).read_text() == f"the bytes of {name}"


def test_a_store_that_refuses_ends_the_pod_with_its_reason(store: str, tmp_path: Path) -> None:
    done = fetch("baton-gateway", store, tmp_path, "another")
    assert done.returncode != 0
    assert "401" in done.stderr


def test_a_file_that_is_not_there_ends_the_pod_though_the_next_one_is(
    store: str, tmp_path: Path
) -> None:
    (tmp_path / "store" / "qwen" / FILES[0]).unlink()
    done = fetch("baton-decode", store, tmp_path, TOKEN)
    assert done.returncode != 0
    assert "404" in done.stderr
