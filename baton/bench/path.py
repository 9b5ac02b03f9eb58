"""What gateway, router and workers add to the time to the first token, on this host."""

import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import torch

from baton.bench.row import Row
from baton.up_config import DEMO_MODEL, DEMO_NAME
from engine.config import ModelConfig
from engine.engine import Engine
from engine.kv_cache import allocate_kv, kv_layout
from engine.options import EngineConfig
from engine.sequence import EngineRequest
from engine.weights import load
from runtime.clock import SystemClock
from runtime.lifecycle import free_port
from runtime.settings import child_environment
from wire.messages import SamplingParams

REQUESTS_PER_REPEAT = 40
REMOTE_PROMPT_TOKENS = 48
_READY_TIMEOUT_S = 60.0


def run(repeats: int) -> list[Row]:
    """TTFT through the whole path on the bundled model, beside the bare engine's first token.

    path.ttft: a prompt of one token, which the decode worker reads itself. path.ttft.remote: a
    fresh prompt that prefill reads. Milliseconds, one request at a time.
    """
    count = repeats * REQUESTS_PER_REPEAT
    rows = []
    with _cluster() as port:
        for name, length in (("path.ttft", 1), ("path.ttft.remote", REMOTE_PROMPT_TOKENS)):
            prompts = [_prompt(length, seed) for seed in range(count)]
            _ttft_ms(port, prompts[:REQUESTS_PER_REPEAT])  # warms caches and code paths up
            bare_ms = _engine_ms(prompts)
            path_ms = _ttft_ms(port, [_prompt(length, -seed - 1) for seed in range(count)])
            for suffix, of in (("p50", median), ("p99", _p99)):
                value, bare = of(path_ms), of(bare_ms)
                label = "first token of the bare engine"
                rows.append(Row(f"{name}.{suffix}", value, "ms", label, bare, value / bare))
                added = value - bare
                rows.append(Row(f"{name}.added.{suffix}", added, "ms", "bound", 5.0, added / 5.0))
    return rows


def _prompt(length: int, seed: int) -> tuple[int, ...]:
    generator = random.Random(seed)
    return tuple(generator.randrange(10, 2000) for _ in range(length))


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98]


@contextmanager
def _cluster() -> Iterator[int]:
    """The HTTP port of a `baton up` of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "baton", "up", "--port", str(port)]
        command += ["--control-port", str(free_port()), "--kv-memory", "64MiB"]
        environment = child_environment({"BATON_STATE_DIR": state})
        with (Path(state) / "bench.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_ready(process, port, Path(state) / "bench.log")
            yield port
        finally:
            process.terminate()
            process.wait()


def _wait_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the cluster did not start:\n{log.read_text()[-2000:]}")


def _ttft_ms(port: int, prompts: Sequence[tuple[int, ...]]) -> list[float]:
    """Milliseconds from sending each request to the first event with text, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    times = []
    for prompt in prompts:
        body = {"model": DEMO_NAME, "prompt": list(prompt), "max_tokens": 2, "stream": True}
        body |= {"temperature": 0, "ignore_eos": True}
        started_s = time.perf_counter()
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        while not response.readline().startswith(b"data: {"):
            pass
        times.append(1e3 * (time.perf_counter() - started_s))
        response.read()
    connection.close()
    return times


def _engine_ms(prompts: Sequence[tuple[int, ...]]) -> list[float]:
    """Milliseconds of each prompt's first token on an engine alone in this process."""
    torch.set_num_threads(1)  # as `baton up` has it for a model of this size
    directory = DEMO_MODEL
    config = ModelConfig.from_directory(directory)
    layout = kv_layout(config, config.dtype, 256)
    model = load(directory, config, config.dtype)
    engine = Engine(
        model, allocate_kv(layout), EngineConfig(num_blocks=256, max_model_len=1024), SystemClock()
    )
    times = []
    for index, prompt in enumerate(prompts):
        request = EngineRequest(
            index, prompt, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
        )
        started_s = time.perf_counter()
        engine.add(request)
        plan = engine.schedule()
        assert plan is not None
        engine.execute(plan)
        times.append(1e3 * (time.perf_counter() - started_s))
    return times
