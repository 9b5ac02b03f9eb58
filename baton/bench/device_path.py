"""What pulls between two processes' pools on one GPU reach, beside a copy within it.

    python -m baton.bench.device_path LIBRARY GPU LAYOUT BLOCKS ORDER

is the source's process; it prints where it listens and ends with its input.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median

from baton.bench.row import Row
from kv_transfer.config import TransferConfig
from kv_transfer.cuda_device import CudaDevice
from kv_transfer.cuda_driver import LIBRARY, CudaDriver
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.exporter import Exporter
from kv_transfer.preflight import Preflight
from runtime.clock import SystemClock
from wire.kv import FabricAddress, KVLayout

LAYOUT = KVLayout(32, 1024, 8, 16, 128, "bfloat16")  # Llama-3.1-8B: 2 GiB
ORDERS = ("contiguous", "scattered")
_SECRET = b"of this bench"
_NAME, _EPOCH = "source", 1
_CONFIG = TransferConfig(transport="cuda_ipc", device_path="direct", piece_bytes=32 << 20)


def run(
    copy_bytes_per_s: float, repeats: int, library: str = LIBRARY, layout: KVLayout = LAYOUT
) -> list[Row]:
    """A row for each order of the source's blocks: bytes read plus bytes written, as a copy's are
    counted. Raises TransferError where the pools cannot be had or read."""
    gpu = CudaDevice(CudaDriver(library), 0)
    rows = []
    for order in ORDERS:
        with _source(library, layout, order) as address:
            rates = [_pulled_bytes_s(gpu, layout, address) for _ in range(repeats)]
        rate, ceiling = 2 * median(rates) / 1e9, copy_bytes_per_s / 1e9
        name = f"kv.cuda_ipc.{order}"
        rows.append(Row(name, rate, "GB/s", "copy bandwidth", ceiling, rate / ceiling))
    return rows


def _pulled_bytes_s(gpu: CudaDevice, layout: KVLayout, address: FabricAddress) -> float:
    """Of one pull of as many bytes as the pool has, by a link that is open."""
    preflight = Preflight(
        layout,
        SystemClock(),
        _SECRET,
        _CONFIG,
        num_small=1,
        large_bytes=layout.pool_bytes,
        allocate=gpu.allocate,
    )
    measured = preflight.probe(address, _NAME, _EPOCH)
    if measured.error:
        raise TransferError(FailReason.TRANSPORT, measured.error)
    return measured.bandwidth_bytes_s


@contextmanager
def _source(library: str, layout: KVLayout, order: str) -> Iterator[FabricAddress]:
    arguments = [library, "0", layout.signature, str(layout.num_blocks), order]
    process = subprocess.Popen(
        [sys.executable, "-m", "baton.bench.device_path", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        told = process.stdout.readline()
        if not told:
            raise TransferError(FailReason.TRANSPORT, "the source's process did not start")
        fields = json.loads(told)
        yield FabricAddress(**{**fields, "transports": tuple(fields["transports"])})
    finally:
        process.stdin.close()
        process.wait(60.0)
        process.stdout.close()


def main() -> None:
    library, gpu, signature, num_blocks, order = sys.argv[1:]
    layout = KVLayout.from_signature(signature, int(num_blocks))
    memory = CudaDevice(CudaDriver(library), int(gpu)).allocate(layout.pool_bytes)
    blocks = list(range(layout.num_blocks))
    if order == "scattered":
        random.Random(1).shuffle(blocks)
    exporter = Exporter(
        layout,
        memory,
        _NAME,
        _EPOCH,
        SystemClock(),
        _SECRET,
        _CONFIG,
        on_released=lambda export_id: None,
        probe_blocks=blocks,
    )
    print(json.dumps(asdict(exporter.start("127.0.0.1"))), flush=True)
    sys.stdin.read()
    exporter.close()


if __name__ == "__main__":
    main()
