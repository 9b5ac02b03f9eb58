"""The images' recipe and the compose file: what can be said of them without a daemon."""

import json
import re
import subprocess
import sys
import tomllib
import venv
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from control_plane.config import ControlConfig
from dashboard.config import DashboardConfig
from gateway.config import GatewayConfig
from worker.config import WorkerConfig

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
CONFIGS = {
    "gateway": GatewayConfig,
    "control": ControlConfig,
    "dashboard": DashboardConfig,
    "prefill": WorkerConfig,
    "decode": WorkerConfig,
}
# Of the engine alone; the gateway's image has none of them.
ENGINE_ONLY = {"torch", "safetensors"}
FINAL = ("gateway", "worker-cpu", "worker-cuda", "ray-cpu", "ray-cuda")


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Each stage's base and its instructions."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.M)
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    name = ""
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif word and name:
            found[name][1].append((word, rest.strip()))
    return found


def instructions(name: str) -> list[tuple[str, str]]:
    """Those of the stage, behind those of the stages that it is made of."""
    base, own = stages()[name]
    return [*(instructions(base) if base in stages() else []), *own]


def last(name: str, word: str) -> str:
    return [rest for instruction, rest in instructions(name) if instruction == word][-1]


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_baton_itself_as_the_charts_user_and_hears_sigterm(name: str):
    assert last(name, "USER") == "10001:10001"
    assert json.loads(last(name, "ENTRYPOINT")) == ["baton"]
    assert isinstance(json.loads(last(name, "CMD")), list)
    assert last(name, "STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("name", FINAL)
def test_an_image_leaves_no_package_lists_and_no_caches(name: str):
    for word, rest in instructions(name):
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists/*" in rest
        assert not (word == "ADD" or (word == "ENV" and "TOKEN" in rest))
    assert any("PIP_NO_CACHE_DIR=1" in rest for word, rest in instructions(name) if word == "ENV")


def test_images_have_pinned_bases_and_what_is_copied_exists():
    for _, (base, own) in stages().items():
        assert base in stages() or base == "python:${PYTHON}"
        for word, rest in own:
            if word == "COPY" and "--from" not in rest:
                assert (ROOT / rest.split()[0]).exists()


def test_the_context_has_every_room_and_nothing_that_is_secret_or_large():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_in = {line[1:] for line in lines if line.startswith("!")}
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = {
        word.rstrip("*") for word in content["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert rooms <= let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_the_gateways_image_has_all_dependencies_but_the_engines():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = content["project"]
    all_of_it = [*project["dependencies"], *project["optional-dependencies"]["tracing"]]
    wanted = {d for d in all_of_it if _name(d) not in ENGINE_ONLY}
    lines = (DOCKER / "requirements-gateway.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted


@pytest.mark.parametrize("name", ["worker-cpu", "worker-cuda"])
def test_the_workers_images_can_send_spans(name: str):
    assert any("/wheels/*.whl)[tracing]" in rest for word, rest in instructions(name))


def _name(requirement: str) -> str:
    return re.split(r"[<>=\[; ]", requirement)[0]


def test_gateway_control_and_dashboard_load_nothing_of_the_engine():
    code = (
        "import sys, importlib\n"
        "for name in ('gateway', 'control', 'dashboard', 'router', 'status'):\n"
        "    importlib.import_module('baton.commands.' + name)\n"
        "print([name for name in ('torch', 'safetensors', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_compose_starts_each_process_with_settings_that_it_has():
    services = compose()["services"]
    seen = set()
    for service in services.values():
        command = service["command"][0] if "command" in service else ""
        if command not in CONFIGS:
            continue
        seen.add(command)
        known = {field.name for field in fields(CONFIGS[command])}
        flags = {word[2:].replace("-", "_") for word in service["command"] if word[:2] == "--"}
        variables = {name[6:].lower() for name in service["environment"] if name[:6] == "BATON_"}
        assert flags | variables <= known
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert seen == set(CONFIGS)


def test_compose_names_services_files_and_stages_that_exist():
    services = compose()["services"]
    assert {"redis", "prometheus", "gateway", "control", "grafana"} <= set(services)
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        if "build" in service:
            assert service["build"]["target"] in stages()
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DOCKER / source).exists(), source
    assert services["grafana"]["profiles"] == ["grafana"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gateways_image_works_where_torch_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The stage's own commands, in a fresh environment."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [str(tmp_path / "venv/bin/pip"), "install", "--quiet"]
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*wheel, str(ROOT)], check=True)
    subprocess.run([*pip, "-r", str(DOCKER / "requirements-gateway.txt")], check=True)
    [built] = tmp_path.glob("*.whl")
    subprocess.run([*pip, "--no-deps", str(built)], check=True)
    for command in ("gateway", "control", "dashboard", "router"):
        words = [str(tmp_path / "venv/bin/baton"), command, "--help"]
        found = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
    model = (
        tmp_path
        / "venv/lib"
        / f"python3.{sys.version_info.minor}"
        / "site-packages/baton/demo_model"
    )
    assert (model / "model.safetensors").exists()
