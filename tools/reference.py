"""Writes docs/reference.md from the code: every setting, metric and error code.

python tools/reference.py          writes it
python tools/reference.py --check  fails when it differs
"""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from baton.commands.flags import HELP, SECRET_FIELDS
from baton.up_config import UpConfig
from control_plane.config import ControlConfig
from dashboard.config import DashboardConfig
from gateway.config import GatewayConfig
from router.server_config import RouterServerConfig
from runtime.metrics import CONTROL_METRICS, GATEWAY_METRICS, WORKER_METRICS, MetricSpec
from wire.errors import ErrorCode
from worker.config import WorkerConfig

TARGET = Path(__file__).parents[1] / "docs" / "reference.md"
CONFIGS: dict[str, type[Any]] = {
    "up": UpConfig,
    "gateway": GatewayConfig,
    "router": RouterServerConfig,
    "prefill, decode": WorkerConfig,
    "control": ControlConfig,
    "dashboard": DashboardConfig,
}
ERRORS = {
    ErrorCode.INVALID_REQUEST: (400, "A field is wrong; the message names it and the limit."),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: (400, "Prompt and max_tokens are more than the context."),
    ErrorCode.MODEL_NOT_FOUND: (404, "The server has no model of that name."),
    ErrorCode.OVERLOADED: (429, "No room, refused before prefill was spent; see Retry-After."),
    ErrorCode.UNAVAILABLE: (503, "No worker is live; see Retry-After."),
    ErrorCode.DRAINING: (503, "The process is shutting down."),
    ErrorCode.WORKER_LOST: (503, "Workers died under the request more often than it may retry."),
    ErrorCode.TRANSFER_FAILED: (503, "KV could not be moved; inside the cluster it is recomputed."),
    ErrorCode.CANCELLED: (500, "The client went away."),
    ErrorCode.INTERNAL: (500, "Baton's own fault; the log has the request's id."),
}
GATEWAY_ERRORS = {
    "invalid_json": (400, "The body is no JSON."),
    "unknown_field": (400, "The body has a field that the endpoint does not know; it is named."),
    "invalid_type": (400, "A field has the wrong type; it is named."),
    "unsupported_field": (400, "A field is known and not served; it is named."),
    "invalid_grammar": (400, "The schema or grammar for the answer does not compile; see why."),
    "no_chat_template": (400, "The model directory has no chat template."),
    "invalid_api_key": (401, "There is a file of tenants, and no key of it came."),
    "rate_limit_exceeded": (429, "The tenant's minute is used up; see Retry-After."),
    "body_too_large": (413, "The body is over max_body_bytes."),
    "header_timeout": (408, "The headers did not come within header_timeout_s."),
    "headers_too_large": (431, "The headers are over 64 KiB."),
    "prompt_too_long": (400, "The prompt is over max_prompt_tokens."),
    "client_certificate_required": (403, "`tls_client_ca` is set, and no certificate came."),
    "model_not_allowed": (403, "The API key may not use the model."),
    "first_token_timeout": (503, "No token came within first_token_timeout_s."),
    "request_timeout": (504, "The answer took over request_timeout_s."),
    "body_timeout": (408, "The body did not come within body_timeout_s."),
    "stalled": (408, "gRPC: the client read nothing for stall_timeout_s."),
    "unsupported_endpoint": (400, "The model cannot do what the endpoint is for."),
    "not_found": (404, "No such route."),
    "method_not_allowed": (405, "The route does not take this method."),
}
VARIABLES = {
    "BATON_STATE_DIR": "Folder of the cluster of this host: `up`, `down`, `status` and the others.",
    "BATON_CACHE_DIR": "Folder of the operators that were compiled for this processor.",
    "BATON_CLUSTER_TOKEN": "Of the cluster that `baton status --control-address` asks.",
    "BATON_OPERATOR_TOKEN": "Of the operator API that `baton flip`, `drain` and so on ask.",
    "BATON_API_KEY": "Key that `baton loadtest` shows the server.",
    "BATON_TRACE": "Trace that `baton bench planner` replays.",
    "BATON_VLLM_PYTHON": "Interpreter with vLLM, which `baton bench engine` measures beside.",
    "BATON_DYNAMO_PYTHON": "Interpreter with Dynamo, for `baton bench router` and `gateway`.",
}


def text() -> str:
    """The whole page."""
    return "\n".join([*_settings(), *_metrics(), *_errors()]) + "\n"


def _settings() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Written by `python tools/reference.py` from the code; a test compares the two."
    yield ""
    yield "## Settings"
    yield ""
    yield "A flag wins over the environment variable `BATON_<NAME>`, which wins over the table of"
    yield "the TOML file given by `--config`, which wins over the default. The cluster token is"
    yield "never a flag."
    for table, config in CONFIGS.items():
        yield ""
        yield f"### baton {table}"
        yield ""
        yield "| setting | default | meaning |"
        yield "|---|---|---|"
        for field in fields(config):
            if field.name not in HELP and field.name not in SECRET_FIELDS:
                continue  # the command itself decides it: the role of prefill and of decode
            default = "required" if field.default is MISSING else f"`{field.default}`"
            name = (
                field.name if field.name in SECRET_FIELDS else f"--{field.name}".replace("_", "-")
            )
            meaning = HELP.get(field.name, "Secret that every process of the cluster shares.")
            yield f"| `{name}` | {default if field.default != '' else ''} | {meaning} |"
    yield ""
    yield "### Variables of commands"
    yield ""
    yield "They have no flag."
    yield ""
    yield "| variable | meaning |"
    yield "|---|---|"
    yield from (f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items())


def _metrics() -> Iterator[str]:
    yield ""
    yield "## Metrics"
    parts: tuple[tuple[str, tuple[MetricSpec, ...]], ...] = (
        ("gateway", GATEWAY_METRICS),
        ("worker", WORKER_METRICS),
        ("control plane", CONTROL_METRICS),
    )
    for process, specs in parts:
        yield ""
        yield f"### {process}"
        yield ""
        yield "| metric | kind | labels | meaning |"
        yield "|---|---|---|---|"
        for spec in specs:
            yield f"| `{spec.name}` | {spec.kind} | {', '.join(spec.labels)} | {spec.help} |"


def _errors() -> Iterator[str]:
    yield ""
    yield "## Error codes"
    yield ""
    yield 'Errors have the shape `{"error": {"message", "type", "param", "code"}}`. A value out of'
    yield "range has `param` set and no code."
    yield ""
    yield "| code | HTTP | meaning |"
    yield "|---|---|---|"
    rows = {code.value: ERRORS[code] for code in ErrorCode} | GATEWAY_ERRORS
    for code, (status, meaning) in rows.items():
        yield f"| `{code}` | {status} | {meaning} |"


def main() -> int:
    if "--check" in sys.argv:
        return 0 if TARGET.exists() and TARGET.read_text() == text() else 1
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
