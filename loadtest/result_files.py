"""Results on disk: one JSON object with the keys of `vllm bench serve`, and JSONL per request."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from loadtest.errors import LoadtestError
from loadtest.record import RequestRecord
from loadtest.result import Distribution, RunResult

_RESULT = "baton_loadtest"  # the key under which the whole result stands


def write_json(path: Path, result: RunResult) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(flat(result)), indent=1) + b"\n")


def read_json(path: Path) -> RunResult:
    """A result that write_json wrote. Raises LoadtestError naming the file."""
    try:
        content = msgspec.json.decode(path.read_bytes())
        return msgspec.convert(content[_RESULT], RunResult)
    except OSError as error:
        raise LoadtestError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise LoadtestError(f"{path} is no result of baton loadtest: {error}") from error


def flat(result: RunResult) -> dict[str, Any]:
    """The keys of `vllm bench serve --save-result` where they exist, then the whole result.

    Latencies count from the intended start, as in all of this harness' figures.
    """
    facts, overall = result.facts, result.overall
    start_s, end_s = facts.window_s
    found: dict[str, Any] = {
        "date": facts.date,
        "backend": facts.style,
        "endpoint_type": "openai-chat" if facts.style == "chat" else "openai",
        "model_id": facts.model,
        "num_prompts": overall.num_requests,
        "duration": end_s - start_s,
        "completed": overall.num_ok,
        "failed": overall.num_requests - overall.num_ok,
        "total_input_tokens": overall.num_input_tokens,
        "total_output_tokens": overall.num_output_tokens,
        "request_throughput": overall.request_throughput,
        "request_goodput": overall.goodput,
        "output_throughput": overall.output_throughput,
        "total_token_throughput": overall.output_throughput + overall.input_throughput,
        "max_concurrency": None,
    }
    latencies = {
        "ttft": overall.ttft,
        "tpot": overall.tpot,
        "itl": overall.itl,
        "e2el": overall.e2el,
    }
    for name, values in latencies.items():
        found.update(_latency_keys(name, values))
    found[_RESULT] = result
    return found


def write_requests(path: Path, records: Iterable[RequestRecord]) -> None:
    """One JSON object a request, with every gap."""
    with path.open("wb") as sink:
        for record in sorted(records, key=lambda record: record.index):
            fields = {name: getattr(record, name) for name in record.__struct_fields__}
            fields["gaps_s"] = [round(float(gap), 6) for gap in record.gaps_s]
            del fields["gaps"]
            sink.write(msgspec.json.encode(fields) + b"\n")


def _latency_keys(name: str, values: Distribution) -> dict[str, float]:
    return {
        f"mean_{name}_ms": values.mean,
        f"median_{name}_ms": values.p50,
        f"std_{name}_ms": values.std,
        f"p90_{name}_ms": values.p90,
        f"p95_{name}_ms": values.p95,
        f"p99_{name}_ms": values.p99,
    }
