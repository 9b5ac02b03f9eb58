"""`baton status`: what the cluster's workers and processes are doing."""

import asyncio
import sys
from typing import Annotated

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from baton.operator_client import OperatorError, operator_client
from baton.operator_summary import summary
from baton.state_dir import StateDir
from control_plane.api.shapes import StatusView
from runtime.settings import environment
from wire import rpc
from wire.cluster import ClusterStatus, ProcessStatus, WorkerStatus

_FILE_WIDTH = 120  # columns, where the output is no terminal

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
AddressFlag = Annotated[
    str,
    typer.Option(help="host:port of a control plane; empty: the cluster that runs on this host."),
]


def command(as_json: JsonFlag = False, control_address: AddressFlag = "") -> None:
    """Show workers, their load, and the processes that are kept alive."""
    address, token = where(control_address)
    try:
        status = asyncio.run(_fetch(address, token))
    except rpc.RpcError as error:
        typer.echo(f"baton status: {address} does not answer: {error.details()}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(msgspec.json.encode(status).decode())
        return
    for line in _summary(control_address):
        typer.echo(line)
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    tables = (_worker_table(status), _pair_table(status), _process_table(status.processes))
    for table in tables:
        if table.row_count:
            console.print(table)


def _summary(control_address: str) -> list[str]:
    """Addresses and what only the operator API knows; nothing for a cluster that is elsewhere."""
    state = None if control_address else StateDir.of_environment().running()
    if state is None:
        return []
    page = f", dashboard {state.dashboard_url}" if state.dashboard_url else ""
    addresses = f"API {state.http_url}/v1{page}"
    client = operator_client("")
    try:
        return [addresses, *(summary(client.get("status", StatusView)) if client else [])]
    except OperatorError as error:
        return [addresses, f"the operator API does not help: {error}"]


def where(control_address: str) -> tuple[str, str]:
    """Address and token of the control plane to ask."""
    if control_address:
        return control_address, environment("CLUSTER_TOKEN")
    state_dir = StateDir.of_environment()
    state = state_dir.running()
    if state is None:
        typer.echo(f"No cluster runs here (state directory {state_dir.path}).", err=True)
        raise typer.Exit(1)
    return state.control_address, state.cluster_token


async def _fetch(address: str, token: str) -> ClusterStatus:
    channel = rpc.open_channel(address)
    try:
        return await rpc.fetch_status(channel, token)
    finally:
        await channel.close(None)


def _worker_table(status: ClusterStatus) -> Table:
    restarts = {process.name: str(process.num_restarts) for process in status.processes}
    models = sorted({worker.info.fingerprint.model for worker in status.workers})
    table = _table(
        f"Workers of {', '.join(models)}",
        ("worker", "role", "address", "beat", "running", "waiting", "KV used", "step", "restarts"),
    )
    for worker in status.workers:
        table.add_row(*_worker_row(worker), restarts.get(worker.info.worker_id, "-"))
    return table


def _worker_row(worker: WorkerStatus) -> tuple[str, ...]:
    info, report = worker.info, worker.report
    used = report.num_blocks - report.num_free_blocks
    share = f"{used / report.num_blocks:.0%}" if report.num_blocks else "-"
    return (
        info.worker_id,
        ", ".join([info.role.value, *["drains"] * info.draining, *["flips"] * info.flipping]),
        info.address,
        f"{worker.beat_age_s:.1f} s",
        str(report.num_running),
        str(report.num_waiting),
        share,
        f"{report.step_s * 1e3:.1f} ms",
    )


def _pair_table(status: ClusterStatus) -> Table:
    table = _table("KV transfer", ("from", "to", "by", "latency", "bandwidth", "alarm"))
    for worker in status.workers:
        for pair in worker.info.pairs:
            table.add_row(
                pair.source,
                worker.info.worker_id,
                pair.transport or "-",
                f"{pair.latency_s * 1e3:.2f} ms",
                f"{pair.bandwidth_bytes_s / 1e9:.2f} GB/s",
                f"does not pair: {pair.refusal}" if pair.refusal else "; ".join(pair.alarms),
            )
    return table


def _process_table(processes: tuple[ProcessStatus, ...]) -> Table:
    table = _table("Processes", ("name", "kind", "pid", "state", "restarts", "up", "last line"))
    for process in processes:
        table.add_row(
            process.name,
            process.kind,
            str(process.pid or "-"),
            process.state,
            str(process.num_restarts),
            f"{process.uptime_s:.0f} s",
            process.detail,
        )
    return table


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table
