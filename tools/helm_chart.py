"""Writes the chart's README.md, values.schema.json and rules from their sources.

python tools/helm_chart.py          writes them
python tools/helm_chart.py --check  fails when one differs

The values' comments become descriptions, and the settings of Baton's processes become schemas: Helm
refuses a value or a setting that does not exist before anything is installed.
"""

import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from baton.commands.flags import HELP, SECRET_FIELDS
from baton.up_config import UpConfig
from control_plane.config import ControlConfig
from control_plane.planner.config import PlannerConfig
from gateway.config import GatewayConfig
from worker.config import WorkerConfig

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "baton"
RULES = ("recording.yaml", "alerts.yaml")
Schema = dict[str, Any]

# What the chart decides itself, or what has no meaning in a pod.
OWN = {
    GatewayConfig: "model host port served_model_name control_address drain_s tenants_file"
    " tls_certificate tls_key router_redis tenants_redis grpc_port parent_pid processes group_dir"
    " group_number",
    ControlConfig: "host port http_port metrics_port plan planner_file prometheus_url"
    " gateway_metrics audit_file election kube_namespace kube_lease kube_prefill kube_decode"
    " kubeconfig actuator ready_timeout_s identity advertise_url redis_url parent_pid",
    WorkerConfig: "model role served_model_name worker_id host port fabric_port advertise_host"
    " control_address kv_memory kv_tls_ca kv_tls_cert kv_tls_key lease_s drain_timeout_s"
    " metrics_port parent_pid",
    UpConfig: "model served_model_name host port grpc_port gateways control_port http_port"
    " dashboard_port metrics_port kv_memory ray ray_address ray_cpus ray_gpus ray_wait_s prefill"
    " decode max_workers plan planner_file drain_s ready_timeout_s tenants_file router_redis"
    " parent_pid verbose",
}
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_QUANTITY = {
    "type": ["string", "integer"],
    "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$",
}
_QUANTITIES = {"type": "object", "additionalProperties": {"$ref": "#/definitions/quantity"}}


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml. path: from the root. children: empty for a leaf."""

    path: tuple[str, ...]
    default: Any
    text: str
    extra: Schema
    children: "list[Value]" = field(default_factory=list)


def read_values(text: str) -> list[Value]:
    """The values in the file's order. Raises ValueError for one without a description."""
    tops: list[Value] = []
    open_values: list[tuple[int, Value]] = []
    comments: list[str] = []
    defaults = yaml.safe_load(text)
    for line in text.splitlines():
        if comment := re.match(r" *# ?(.*)", line):
            comments.append(comment[1])
            continue
        key = re.match(r"( *)([\w-]+):( |$)", line)
        if key:
            indent = len(key[1])
            open_values = [(at, value) for at, value in open_values if at < indent]
            parent = open_values[-1][1] if open_values else None
            if parent and not isinstance(parent.default, dict):
                continue  # inside a list
            path = (*(parent.path if parent else ()), key[2])
            value = _value(path, _at(defaults, path), comments)
            (parent.children if parent else tops).append(value)
            open_values.append((indent, value))
        comments = []
    return [_without_inner(value) for value in tops]


def _value(path: tuple[str, ...], default: Any, comments: list[str]) -> Value:
    extra: Schema = {}
    words = []
    for line in comments:
        if line.startswith("@schema "):
            extra |= json.loads(line.removeprefix("@schema "))
        else:
            words.append(line)
    return Value(path, default, " ".join(words), extra)


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def _without_inner(value: Value) -> Value:
    """What has a schema of its own is one value, whatever its default holds."""
    if "$ref" in value.extra or not isinstance(value.default, dict):
        value.children.clear()
    for child in value.children:
        _without_inner(child)
    if not value.children and not value.text:
        raise ValueError(f"{'.'.join(value.path)} has no description in values.yaml")
    return value


def leaves(values: list[Value]) -> Iterator[Value]:
    for value in values:
        if value.children:
            yield from leaves(value.children)
        else:
            yield value


def schema_of(value: Value) -> Schema:
    if value.children:
        return _object({child.path[-1]: schema_of(child) for child in value.children}, value.text)
    described = {"description": value.text}
    if "$ref" in value.extra:
        return described | {"allOf": [value.extra]}
    if isinstance(value.default, bool):
        return described | {"type": "boolean"} | value.extra
    kinds = {**_TYPES, list: "array", dict: "object", type(None): "null"}
    return described | {"type": kinds[type(value.default)]} | value.extra


def _object(properties: Mapping[str, Any], text: str = "") -> Schema:
    described: Schema = {"description": text} if text else {}
    closed = {"type": "object", "additionalProperties": False, "properties": dict(properties)}
    return described | closed


def settings_schema(cls: type[Any]) -> Schema:
    """The fields of a process's settings that an operator may choose."""
    own = set(OWN[cls].split()) | SECRET_FIELDS
    hints = typing.get_type_hints(cls)
    return _object(
        {
            f.name: {"type": _TYPES[hints[f.name]], "description": HELP.get(f.name, "")}
            for f in fields(cls)
            if f.name not in own
        }
    )


def dataclass_schema(cls: type[Any]) -> Schema:
    """A configuration made of dataclasses, tuples of them and plain values."""
    hints = typing.get_type_hints(cls)
    return _object({f.name: _field_schema(hints[f.name]) for f in fields(cls)})


def _field_schema(kind: Any) -> Schema:
    if is_dataclass(kind):
        return dataclass_schema(typing.cast(type[Any], kind))
    if typing.get_origin(kind) is tuple:
        return {"type": "array", "items": _field_schema(typing.get_args(kind)[0])}
    return {"type": _TYPES[kind]}


def chart_schema(values: list[Value]) -> Schema:
    properties = {value.path[-1]: schema_of(value) for value in values}
    workers = properties["workers"]["properties"]
    name = {"type": "string", "maxLength": 20, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
    pool = _object(
        {
            "name": name,
            "role": {"enum": ["prefill", "decode"]},
            **workers,
        }
    )
    spread = {
        "topologyKey": {"type": "string", "minLength": 1},
        "whenUnsatisfiable": {"enum": ["DoNotSchedule", "ScheduleAnyway"]},
        "maxSkew": {"type": "integer", "minimum": 1},
    }
    definitions = {
        "strings": {"type": "object", "additionalProperties": {"type": "string"}},
        "objects": {"type": "array", "items": {"type": "object"}},
        "anything": {"type": "object"},
        "quantity": _QUANTITY,
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "resources": _object({"requests": _QUANTITIES, "limits": _QUANTITIES}),
        "spread": {"type": "array", "items": _object(spread) | {"required": sorted(spread)}},
        "gatewaySettings": settings_schema(GatewayConfig),
        "controlSettings": settings_schema(ControlConfig),
        "workerSettings": settings_schema(WorkerConfig),
        "upSettings": settings_schema(UpConfig),
        "planner": dataclass_schema(PlannerConfig),
        "pools": {"type": "array", "minItems": 1, "items": pool | {"required": ["name", "role"]}},
    }
    # Helm hands `global` to every chart.
    top = _object({**properties, "global": {"type": "object"}})
    return {"$schema": "http://json-schema.org/draft-07/schema#", **top, "definitions": definitions}


def readme(values: list[Value]) -> str:
    """The page of all values, with the examples."""
    lines = [
        "# The Helm chart",
        "",
        "Written by `python tools/helm_chart.py` from values.yaml; a test compares the two.",
        "docs/operations.md tells how to install, upgrade and drain.",
        "",
        "    helm install baton deploy/helm/baton -f deploy/helm/baton/examples/cpu-trial.yaml",
        "",
        "## Examples",
        "",
        "| file | what it sets up |",
        "|---|---|",
    ]
    for example in sorted((CHART / "examples").glob("*.yaml")):
        lines.append(f"| [{example.stem}](examples/{example.name}) | {_first_comment(example)} |")
    lines += ["", "## Values", "", *_table([value for value in values if not value.children])]
    for value in values:
        if value.children:
            lines += ["", f"### {value.path[-1]}", "", *([value.text, ""] if value.text else [])]
            lines += _table([value])
    return "\n".join(lines) + "\n"


def _table(values: list[Value]) -> list[str]:
    return ["| value | default | meaning |", "|---|---|---|", *map(_row, leaves(values))]


def _first_comment(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("# ") or line.startswith("# helm "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines)


def _row(value: Value) -> str:
    default = json.dumps(value.default) if value.default not in ("", None) else ""
    shown = f"`{default}`" if default else ""
    text = value.text.replace("|", "\\|")
    return f"| `{'.'.join(value.path)}` | {shown} | {text} |"


def outputs() -> dict[Path, str]:
    """What each written file has to hold."""
    values = read_values((CHART / "values.yaml").read_text())
    rules = {
        CHART / "rules" / name: (ROOT / "deploy" / "prometheus" / name).read_text()
        for name in RULES
    }
    return {
        CHART / "README.md": readme(values),
        CHART / "values.schema.json": json.dumps(chart_schema(values), indent=1) + "\n",
        **rules,
    }


def main() -> int:
    stale = [path for path, text in outputs().items() if not _has(path, text)]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what tools/helm_chart.py writes")
        return int(bool(stale))
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(outputs()[path])
    return 0


def _has(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
