"""Serves models on a CUDA device through the real processes and looks at what comes back.

    python tools/gpu_serve_check.py [--skip-large] [--kv-device-path direct]

First two pools on one GPU answer as `transformers` does (fp32, small random model), then a random
bf16 model of the Qwen3-0.6B shape is served and timed by a plain client. It needs an NVIDIA GPU.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

from runtime.lifecycle import free_port
from runtime.settings import child_environment

DEMO = Path(__file__).parents[1] / "baton" / "demo_model"
SMALL = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
LARGE = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": True,
}


def make_model(directory: Path, shape: dict[str, Any], dtype: torch.dtype) -> None:
    """A random Qwen3 model with the demonstration model's tokenizer."""
    torch.manual_seed(3)
    with torch.device("cuda"):
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape)).to(dtype)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_text((DEMO / name).read_text())


@contextmanager
def cluster(model: Path, *flags: str) -> Iterator[int]:
    """The HTTP port of a `baton up` on this GPU."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        log_path = Path(state) / "up.log"
        command = [sys.executable, "-m", "baton", "up", "--model", str(model), "--verbose"]
        command += ["--port", str(port), "--control-port", str(free_port()), *flags]
        with log_path.open("wb") as log:
            environment = child_environment({"BATON_STATE_DIR": state})
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_ready(process, port, log_path)
            print(next(x for x in log_path.read_text().splitlines() if "memory_plan" in x))
            yield port
        finally:
            process.terminate()
            process.wait()
            if any(word in log_path.read_text() for word in ("step_failed", "integrity_failed")):
                print(log_path.read_text()[-6000:])
                raise SystemExit("the cluster's log tells of a failure")


def wait_ready(process: "subprocess.Popen[bytes]", port: int, log_path: Path) -> None:
    started_s = time.monotonic()
    while time.monotonic() - started_s < 150 and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                print(f"ready after {time.monotonic() - started_s:.1f} s")
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the cluster did not start:\n{log_path.read_text()[-6000:]}")


def complete(port: int, model: str, prompt: list[int], max_tokens: int) -> tuple[float, str]:
    """(seconds to the end, text) of one greedy completion."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens}
    body |= {"temperature": 0, "ignore_eos": True}
    started_s = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body))
    text = json.loads(connection.getresponse().read())["choices"][0]["text"]
    connection.close()
    return time.perf_counter() - started_s, text


def check_equal(directory: Path, path: str) -> None:
    """Two pools on one GPU against `transformers` on the CPU, greedy, fp32."""
    make_model(directory, SMALL, torch.float32)
    reference = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(DEMO / "tokenizer.json"))
    generator = torch.Generator().manual_seed(5)
    flags = ("--kv-memory", "1GiB", "--dtype", "float32", "--kv-device-path", path)
    with cluster(directory, *flags) as port:
        for length in (1, 16, 17, 100, 700, 2000):
            prompt = torch.randint(10, 4096, (1, length), generator=generator)
            expected = reference.generate(
                prompt, max_new_tokens=24, min_new_tokens=24, do_sample=False, eos_token_id=None,
                attention_mask=torch.ones_like(prompt), pad_token_id=0,
            )[0, length:]  # fmt: skip
            text = complete(port, directory.name, prompt[0].tolist(), 24)[1]
            wanted = tokenizer.decode(expected, skip_special_tokens=True)
            print(f"{length:5} tokens:", "equal" if text == wanted else f"{text!r} != {wanted!r}")


def measure(directory: Path, path: str) -> None:
    """One stream at a time, then 64 at once, through HTTP, router, two workers and the fabric."""
    make_model(directory, LARGE, torch.bfloat16)
    generator = torch.Generator().manual_seed(5)
    with cluster(directory, "--kv-memory", "8GiB", "--kv-device-path", path) as port:

        def prompt(length: int) -> list[int]:
            return torch.randint(10, 4000, (length,), generator=generator).tolist()

        for length in (1, 512, 4096, 8192):
            runs = [complete(port, directory.name, prompt(length), 64)[0] for _ in range(6)][1:]
            print(f"{length:5} tokens in, 64 out, alone: {1e3 * median(runs):7.1f} ms")
        prompts = [prompt(512) for _ in range(64)]
        threads = [
            threading.Thread(target=complete, args=(port, directory.name, tokens, 256))
            for tokens in prompts
        ]
        started_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started_s
        print(f"64 requests of 512 in, 256 out: {64 * 256 / seconds:.0f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--kv-device-path", choices=("host", "direct"), default="host")
    arguments = parser.parse_args()
    path = arguments.kv_device_path
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    with tempfile.TemporaryDirectory() as root:
        check_equal(Path(root) / "small", path)
        if not arguments.skip_large:
            measure(Path(root) / "large", path)


if __name__ == "__main__":
    main()
