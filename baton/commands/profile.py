"""`baton profile`: fits a profile from the workers of a live cluster while they are under load."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from baton.commands.status import where
from profiles.catalog import dump
from profiles.profile import Profile
from profiles.scatter import Scatter
from runtime.sizes import parse_bytes
from simulate.errors import SimulationError
from simulate.fit import StepFit, fit_steps
from wire import rpc
from wire.block_hash import BLOCK_SIZE
from wire.cluster import WorkerInfo, WorkerStatus
from wire.kv import KVLayout
from wire.messages import StepTotals
from wire.steps_rpc import fetch_steps

_LOOK_S = 1.0  # workers remember the last 2,048 steps

OutArgument = Annotated[Path, typer.Argument(help="The TOML file to write.")]
SecondsFlag = Annotated[float, typer.Option(help="How long to watch.")]
AddressFlag = Annotated[str, typer.Option(help="host:port of the control plane; empty: local.")]
LinkFlag = Annotated[str, typer.Option(help="Bytes a second of KV between workers, as in 10GB.")]


def command(
    out: OutArgument,
    seconds: SecondsFlag = 30.0,
    control_address: AddressFlag = "",
    link: LinkFlag = "5GB",
) -> None:
    """Watch the workers under load and write how long their steps take."""
    address, token = where(control_address)
    try:
        watching = fitted_profile(out.stem, address, token, seconds, parse_bytes(link))
        profile, fit = asyncio.run(watching)
        out.write_text(dump(profile))
    except rpc.RpcError as error:
        typer.echo(f"baton profile: {address} does not answer: {error.details()}", err=True)
        raise typer.Exit(1) from error
    except (SimulationError, OSError, ValueError) as error:
        typer.echo(f"baton profile: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{out}: {fit.num_samples} samples, median error {fit.error:.1%}")
    typer.echo(_scatter_line(fit.scatter))


def _scatter_line(scatter: Scatter) -> str:
    shown = [
        f"{name} {table[len(table) // 10]:.2f} to {table[-len(table) // 10]:.2f}"
        for name, table in (("decode", scatter.decode), ("prefill", scatter.prefill))
        if table
    ]
    if not shown:
        return "no scatter: too few single steps were seen, or the workers' ports are out of reach"
    return f"of the expected time (p10, p90): {', '.join(shown)}"


async def fitted_profile(
    name: str, address: str, token: str, seconds: float, link_bytes_per_s: int
) -> tuple[Profile, StepFit]:
    """The profile of the workers of the control plane at that address, after `seconds` of load.

    Raises RpcError, or SimulationError for too little load.
    """
    seen = await _watch(address, token, seconds)
    fit = fit_steps([worker.totals for worker in seen.values()])
    info = next(iter(seen.values())).info
    return _profile(name, info, fit, link_bytes_per_s), fit


@dataclass(slots=True)
class _Seen:
    """One worker: its totals behind each step, or, where it cannot be asked, as its beats tell."""

    info: WorkerInfo
    channel: rpc.Channel
    steps: list[StepTotals] = field(default_factory=list)
    beats: list[StepTotals] = field(default_factory=list)
    is_asked: bool = True

    @property
    def totals(self) -> list[StepTotals]:
        return self.steps if len(self.steps) > 1 else self.beats

    async def look(self, beat: StepTotals, token: str) -> None:
        """Notes what is new. Steps from before the first look do not count."""
        self.beats.append(beat)
        if not self.is_asked:
            return
        try:
            recent = await fetch_steps(self.channel, token)
        except rpc.RpcError:  # out of reach, of a version that does not tell them, or gone
            self.is_asked = False
            return
        if self.steps:
            last = self.steps[-1].num_steps
            self.steps.extend(totals for totals in recent if totals.num_steps > last)
        else:
            self.steps.append(recent[-1] if recent else StepTotals())


async def _watch(address: str, token: str, seconds: float) -> dict[str, _Seen]:
    """Every worker's steps, by process."""
    seen: dict[str, _Seen] = {}
    channel = rpc.open_channel(address)
    try:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + seconds
        while True:
            workers = (await rpc.fetch_status(channel, token)).workers
            await asyncio.gather(*(_look(seen, worker, token) for worker in workers))
            if loop.time() >= end_s:
                return seen
            await asyncio.sleep(min(_LOOK_S, max(0.0, end_s - loop.time())))
    finally:
        for worker in seen.values():
            await worker.channel.close(None)
        await channel.close(None)


async def _look(seen: dict[str, _Seen], worker: WorkerStatus, token: str) -> None:
    key = f"{worker.info.worker_id} {worker.info.epoch}"
    if key not in seen:
        seen[key] = _Seen(worker.info, rpc.open_channel(worker.info.address))
    await seen[key].look(worker.report.totals, token)


def _profile(name: str, info: WorkerInfo, fit: StepFit, link_bytes_per_s: int) -> Profile:
    try:
        layout = KVLayout.from_signature(info.fingerprint.kv_layout, num_blocks=1)
    except ValueError as error:
        raise SimulationError(str(error)) from error
    return Profile(
        name=name,
        source=f"baton profile of {info.fingerprint.model}: {fit.num_samples} samples of live "
        f"steps, median error {fit.error:.1%}",
        step_s=fit.step_s,
        sequence_s=fit.sequence_s,
        context_token_s=fit.context_token_s,
        prefill_step_s=fit.prefill_step_s,
        prefill_token_s=fit.prefill_token_s,
        prefill_pair_s=fit.prefill_pair_s,
        kv_tokens=info.num_blocks * BLOCK_SIZE,
        kv_bytes_per_token=layout.block_bytes // layout.block_size,
        num_layers=layout.num_layers,
        max_model_len=info.max_model_len,
        link_bytes_per_s=float(link_bytes_per_s),
        prefill_batch_tokens=512,
        decode_batch_tokens=256,
        max_num_seqs=64,
        scatter=fit.scatter,
    )
