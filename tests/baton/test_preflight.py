"""What is found before anything starts."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from baton.preflight import PreflightError, check_model, check_ports, check_settings
from baton.up_config import DEMO_NAME, UpConfig


def test_a_whole_directory_gives_its_facts(whole_model: Path):
    facts = check_model(whole_model, "named")
    assert (facts.name, facts.max_model_len, facts.has_chat_template) == ("named", 128, True)
    assert facts.weight_bytes == (whole_model / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(model_copy: Path, name: str):
    (model_copy / name).unlink()
    with pytest.raises(PreflightError, match=f"{name}: file is missing"):
        check_model(model_copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff" * 64, b"[]"])
def test_a_corrupt_file_is_named(model_copy: Path, name: str, content: bytes):
    (model_copy / name).write_bytes(content)
    with pytest.raises(PreflightError, match=name):
        check_model(model_copy)


@pytest.mark.parametrize("change_bytes", [-1, 1])
def test_weights_of_another_length_than_their_header_says_are_refused(
    model_copy: Path, change_bytes: int
):
    path = model_copy / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] if change_bytes < 0 else content + b"\0")
    with pytest.raises(PreflightError, match="where its header says"):
        check_model(model_copy)


def test_every_file_of_a_weight_index_is_checked(
    model_copy: Path, weights_writer: Callable[..., None]
):
    (model_copy / "model.safetensors").unlink()
    names = ["a-1.safetensors", "a-2.safetensors"]
    weight_map = {f"w{number}": name for number, name in enumerate(names)}
    index = model_copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    weights_writer(model_copy / names[0])
    with pytest.raises(PreflightError, match=names[1]):
        check_model(model_copy)
    weights_writer(model_copy / names[1], 16)
    sizes = [(model_copy / name).stat().st_size for name in names]
    assert check_model(model_copy).weight_bytes == sum(sizes)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_corrupt_weight_index_is_named(model_copy: Path, content: str):
    (model_copy / "model.safetensors.index.json").write_text(content)
    with pytest.raises(PreflightError, match="index.json"):
        check_model(model_copy)


@pytest.mark.parametrize("field", ["port", "control_port", "metrics_port"])
def test_a_busy_port_is_named(field: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = UpConfig(**{"port": 0, "control_port": 0, field: port})
        with pytest.raises(PreflightError, match=str(port)):
            check_ports(config)


@pytest.mark.parametrize(
    "config",
    [
        UpConfig(prefill=0, decode=0),
        UpConfig(prefill=-1),
        UpConfig(threads=-2),
        UpConfig(kv_memory="much"),
    ],
)
def test_settings_that_make_no_cluster_are_refused(config: UpConfig):
    with pytest.raises(PreflightError):
        check_settings(config)


def test_the_bundled_model_has_a_name_and_any_other_its_directorys(tmp_path: Path):
    assert UpConfig().model_name == DEMO_NAME
    assert UpConfig(model=str(tmp_path)).model_name == tmp_path.name
    assert UpConfig(model=str(tmp_path), served_model_name="mine").model_name == "mine"


def test_threads_are_shared_out_and_never_none():
    assert UpConfig(prefill=200, decode=200).threads_per_worker == 1
    assert UpConfig(threads=3).threads_per_worker == 3


def test_every_process_has_a_metrics_port_of_its_own():
    config = UpConfig(prefill=2, decode=2, metrics_port=9100)
    ports = [config.worker_metrics_port(role, n) for role in ("prefill", "decode") for n in (0, 1)]
    assert ports == [9101, 9102, 9103, 9104]
    assert config.num_metrics_ports == 5
    assert UpConfig().worker_metrics_port("decode", 0) == UpConfig().num_metrics_ports == 0
