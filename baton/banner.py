"""What `baton up` says when the cluster serves."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from baton.preflight import ModelFacts
from baton.state_dir import ClusterState
from baton.up_config import UpConfig
from runtime.sizes import format_bytes
from wire.block_hash import BLOCK_SIZE
from wire.cluster import ClusterStatus, WorkerInfo


def opening(config: UpConfig, model: ModelFacts) -> str:
    """What is said before the workers load, which may take a while."""
    compiles = "" if config.profile else "; the first start on a host compiles operators"
    return f"Starting {_pools(config)} of {model.name}{compiles}."


def banner(
    config: UpConfig,
    model: ModelFacts,
    state: ClusterState,
    status: ClusterStatus,
    kv_memory: Callable[[str], str],
) -> str:
    """Addresses, the memory plan, where the logs are, and a curl line that works.

    kv_memory: from a worker's id to the memory of its KV cache.
    """
    logs = "this terminal" if config.verbose else state.log_dir
    rows = [
        ("API", f"{state.http_url}/v1"),
        *([("gRPC", f"{config.host}:{config.grpc_port}")] if config.grpc_port > 0 else []),
        ("control", state.control_address),
        *([("dashboard", state.dashboard_url)] if state.dashboard_url else []),
        *([("operators", f"{state.operator_url}/api/v1")] if state.operator_url else []),
        ("model", f"{model.directory} ({format_bytes(model.weight_bytes)} of weights)"),
        ("context", f"{model.max_model_len:,} tokens of prompt and answer together"),
        *(
            (info.worker_id, _worker_line(config, info, kv_memory(info.worker_id)))
            for info in (worker.info for worker in status.workers)
        ),
        ("logs", logs),
    ]
    table = "\n".join(f"  {name:<11}{text}" for name, text in rows)
    return (
        f"Baton serves {model.name} with {_pools(config)}.\n\n{table}\n\n"
        f"Try it:\n\n{_curl(state.http_url, model)}\n\n{_how_to_stop()} stops it."
    )


def _how_to_stop() -> str:
    """With the command as the user has to type it, who may have no `baton` on the path."""
    beside = os.path.relpath(Path(sys.executable).with_name("baton"))
    down = f"`{'baton' if shutil.which('baton') else beside} down`"
    has_own_session = os.getsid(0) == os.getpid()  # detached: no terminal's Ctrl-C comes here
    return down if has_own_session else f"Ctrl-C or {down}"


def _worker_line(config: UpConfig, info: WorkerInfo, kv_memory: str) -> str:
    threads = f"{config.threads_per_worker} thread{'s' if config.threads_per_worker > 1 else ''}"
    num_tokens = info.num_blocks * BLOCK_SIZE
    return (
        f"pid {info.pid}, {threads}, {kv_memory} of KV cache for {num_tokens:,} tokens "
        f"({info.num_blocks:,} blocks, {info.fingerprint.dtype})"
    )


def _pools(config: UpConfig) -> str:
    return f"{_count(config.prefill, 'prefill')} and {_count(config.decode, 'decode')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what} worker{'' if number == 1 else 's'}"


def _curl(url: str, model: ModelFacts) -> str:
    question = "What is Baton?"
    path, body = "/v1/completions", {"model": model.name, "prompt": question, "max_tokens": 64}
    if model.has_chat_template:
        path = "/v1/chat/completions"
        body = {"model": model.name, "messages": [{"role": "user", "content": question}]}
    return f"  curl {url}{path} -H 'Content-Type: application/json' \\\n    -d '{json.dumps(body)}'"
