"""All figures of a GPU with as few packages as they need: `python -m baton.bench.gpu`."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
import triton

from baton.bench import device_path, gpu_model, kernels
from baton.bench.row import Row, rows_or_reason


def engine_rows(repeats: int) -> list[Row]:
    """Raises ImportError where a package of the engine's or transformers is missing."""
    from baton.bench import gpu_engine

    return gpu_engine.run(repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    rows = kernels.run(repeats) + gpu_model.run(repeats)
    copy_gbps = next(row.value for row in rows if row.name == "kernels.ceiling.copy")
    rows += rows_or_reason("engine", lambda: engine_rows(repeats))
    rows += rows_or_reason("kv.cuda_ipc", lambda: device_path.run(copy_gbps * 1e9, repeats))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    for row in rows:
        print(
            f"{row.name:44} {row.value:9.2f} {row.unit:8} {row.ratio:6.3f} of "
            f"{row.baseline_value:9.2f} {row.baseline}{row.failure}"
        )


if __name__ == "__main__":
    main()
