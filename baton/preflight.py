"""What can be known before anything is started: the model's files are whole, ports are free."""

import json
from dataclasses import dataclass
from pathlib import Path

from baton.up_config import UpConfig
from gateway.model_directory import ModelDirectoryError, read_model_directory
from runtime.lifecycle import check_port_free
from runtime.sizes import parse_bytes

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header
_MAX_HEADER_BYTES = 100 << 20


class PreflightError(Exception):
    """The cluster cannot start; the message names the file, port or setting to change."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model directory that looks whole."""

    directory: Path
    name: str
    weight_bytes: int
    max_model_len: int  # tokens
    has_chat_template: bool


def check_settings(config: UpConfig) -> None:
    """Raises PreflightError for numbers that make no cluster."""
    if config.prefill < 0 or config.decode < 0 or config.num_workers == 0:
        raise PreflightError(
            f"--prefill {config.prefill} --decode {config.decode}: at least one worker is needed"
        )
    if config.gateways < 1:
        raise PreflightError(f"--gateways {config.gateways}: at least one is needed")
    if config.max_workers < 0:
        raise PreflightError(f"--max-workers {config.max_workers}: must be 0 or more")
    for name in ("threads", "tensor_parallel", "prefill_tensor_parallel", "decode_tensor_parallel"):
        if (value := getattr(config, name)) < 0:
            raise PreflightError(f"--{name.replace('_', '-')} {value}: must be 0 or more")
    if config.kv_memory:
        try:
            parse_bytes(config.kv_memory)
        except ValueError as error:
            raise PreflightError(f"--kv-memory: {error}") from error


def check_ports(config: UpConfig) -> None:
    """Raises PreflightError, naming the port, when one is taken."""
    metrics_ports = range(config.metrics_port, config.metrics_port + config.num_metrics_ports)
    try:
        if config.port:
            check_port_free(config.host, config.port, "HTTP")
            if config.grpc_port >= 0:
                check_port_free(config.host, config.grpc_port or config.port + 1, "gRPC")
        if config.control_port:
            check_port_free("127.0.0.1", config.control_port, "control")
            if config.http_port >= 0:
                port = config.http_port or config.control_port + 1
                check_port_free("127.0.0.1", port, "operator API")
        if config.dashboard_port > 0:
            check_port_free("127.0.0.1", config.dashboard_port, "dashboard")
        for port in metrics_ports:
            check_port_free("127.0.0.1", port, "metrics")
    except OSError as error:
        flags = "--port, --grpc-port, --control-port, --http-port or --metrics-port"
        raise PreflightError(f"{error}; choose another with {flags}") from error


def check_model(directory: Path, name: str = "", max_model_len: int = 0) -> ModelFacts:
    """Reads what the gateway reads, and the header of every weight file.

    Raises PreflightError naming the file that is missing or corrupt.
    """
    try:
        files = read_model_directory(directory, name, max_model_len)
        weight_bytes = sum(_check_safetensors(path) for path in _weight_files(directory))
    except ModelDirectoryError as error:
        raise PreflightError(str(error)) from error
    return ModelFacts(
        directory.resolve(),
        files.name,
        weight_bytes,
        files.max_model_len,
        files.template is not None,
    )


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return [directory / "model.safetensors"]
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        return [directory / name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelDirectoryError(index, f"is not an index of weights: {error!r}") from error


def _check_safetensors(path: Path) -> int:
    """The size of a weight file whose header matches its length."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as source:
            header_bytes = int.from_bytes(source.read(_LENGTH_BYTES), "little")
            if header_bytes > min(size_bytes, _MAX_HEADER_BYTES):
                raise ModelDirectoryError(path, "is not a safetensors file")
            header = json.loads(source.read(header_bytes))
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key[0] != "_")
    except FileNotFoundError:
        raise ModelDirectoryError(path, "file is missing") from None
    except OSError as error:
        raise ModelDirectoryError(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelDirectoryError(path, "its safetensors header is corrupt") from error
    if _LENGTH_BYTES + header_bytes + end != size_bytes:
        wanted = _LENGTH_BYTES + header_bytes + end
        raise ModelDirectoryError(path, f"has {size_bytes} bytes where its header says {wanted}")
    return size_bytes
