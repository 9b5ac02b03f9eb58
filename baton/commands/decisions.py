"""`baton decisions`: what the planner decided, from which figures, and why."""

from typing import Annotated

import msgspec
import typer

from baton.operator_client import UrlFlag, ask
from control_plane.api.shapes import DecisionsView, DecisionView

LimitFlag = Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest last.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def command(limit: LimitFlag = 10, as_json: JsonFlag = False, url: UrlFlag = "") -> None:
    """Show the planner's decisions with their reasons."""
    found = ask("decisions", url, f"decisions?limit={limit}", DecisionsView)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    if not found.decisions:
        typer.echo("The planner has decided nothing yet.")
    for decision in reversed(found.decisions):
        typer.echo(_described(decision))


def _described(decision: DecisionView) -> str:
    acted = "" if decision.acted else ", advice only"
    lines = [
        f"#{decision.id} {decision.prefill}P{decision.decode}D {decision.serving}{acted}",
        *(f"  {reason}" for reason in decision.reasons),
    ]
    for step in decision.steps:
        what = " ".join(
            str(part) for part in (step.kind, step.worker_id, step.count or "", step.role) if part
        )
        outcome = f" [{step.outcome}]" if step.outcome else ""
        lines.append(f"  - {what}: {step.reason}{outcome}")
    return "\n".join(lines)
