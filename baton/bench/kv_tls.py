"""What TLS costs the fabric's sockets: the same pulls with and without, two processes."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from baton.bench.core_pair import hold
from baton.bench.kv_digest import LAYOUT, NUM_TOKENS, filled_memory, pull_s
from baton.bench.row import Row, failed_row, rows_or_reason
from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.tls import Tls
from runtime.clock import SystemClock
from wire.kv import KVHandle

PULLS_PER_REPEAT = 5
_SECRET = b"bench"
_FILES = ("ca.pem", "cert.pem", "key.pem")


def tls_rows(repeats: int, cores: frozenset[int]) -> list[Row]:
    """kv.tcp.tls: GB/s of a pull of 256 MiB under TLS, beside the same pull without; they take
    turns, and the ratio is the median of pairs. Both processes share `cores`."""
    hold(cores)
    if shutil.which("openssl") is None:
        return [failed_row("kv.tcp.tls", "openssl is not installed")]
    return rows_or_reason("kv.tcp.tls", lambda: _rows(repeats))


def _rows(repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        _issue(Path(folder))
        context = get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, folder))
        process.start()
        stack.callback(process.join)
        stack.callback(mine.send, "stop")
        memory = stack.enter_context(filled_memory(0))
        sides: dict[bool, Callable[[], float]] = {}
        for is_secured in (False, True):
            config = _config(folder if is_secured else "")
            importer = Importer(LAYOUT, memory, SystemClock(), _SECRET, config)
            stack.callback(importer.close)
            sides[is_secured] = partial(_read_s, importer, mine, is_secured)
        return [_row(sides, repeats)]


def _row(sides: dict[bool, Callable[[], float]], repeats: int) -> Row:
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(repeats * PULLS_PER_REPEAT + 1):
        for side in sorted(sides, reverse=bool(number % 2)):
            seconds = sides[side]()
            if number:  # the first touches the memory and opens the link
                times[side].append(seconds)
    plain, secured = times[False], times[True]
    ratio = median(a / b for a, b in zip(plain, secured, strict=True))
    rates = [LAYOUT.pool_bytes / median(side) / 1e9 for side in (secured, plain)]
    return Row("kv.tcp.tls", rates[0], "GB/s", "the same pull without TLS", rates[1], ratio)


def _read_s(importer: Importer, source: Connection, is_secured: bool) -> float:
    source.send(is_secured)
    handle = source.recv()
    assert isinstance(handle, KVHandle)
    return pull_s(importer, handle)


def _config(folder: str) -> TransferConfig:
    files = [str(Path(folder) / name) for name in _FILES]
    tls = Tls.load(*files) if folder else None
    return TransferConfig(transport="tcp", verify_share=0.0, wire_format="as_is", tls=tls)


def _serve(asked: Connection, folder: str) -> None:
    """Publishes its whole pool each time it is asked: with TLS or without."""
    with ExitStack() as stack:
        memory = stack.enter_context(filled_memory(7))
        exporters = {}
        for is_secured in (False, True):
            exporter = Exporter(
                LAYOUT, memory, "source", 1, SystemClock(), _SECRET,
                _config(folder if is_secured else ""), on_released=lambda export_id: None,
            )  # fmt: skip
            exporter.start("127.0.0.1")
            stack.callback(exporter.close)
            exporters[is_secured] = exporter
        export_id = 0
        while (side := asked.recv()) != "stop":
            export_id += 1
            exporter = exporters[side]
            handle = exporter.publish(export_id, range(LAYOUT.num_blocks), NUM_TOKENS, NUM_TOKENS)
            exporter.complete(export_id, (1,))
            asked.send(handle)


def _issue(folder: Path) -> None:
    """An authority and one certificate of it, for both sides."""
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for command in (
        f"req -x509 {curve} -days 1 -subj /CN=ca -keyout ca-key.pem -out ca.pem",
        f"req {curve} -subj /CN=worker -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 1 "
        "-out cert.pem",
    ):
        words = ["openssl", *command.split()]
        subprocess.run(words, check=True, capture_output=True, cwd=folder)
