"""`baton what-if`: the planner's answer for a load that nobody has sent."""

from typing import Annotated

import msgspec
import typer

from baton.operator_client import UrlFlag, ask
from control_plane.api.shapes import WhatIfAnswer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def command(
    requests_s: Annotated[float, typer.Option("--rate", min=0, help="Requests a second.")],
    prompt_tokens: Annotated[float, typer.Option(help="Mean tokens of a prompt.")],
    output_tokens: Annotated[float, typer.Option(help="Mean tokens of an answer.")],
    cached_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of prompt tokens that are cached.")
    ] = 0.0,
    ttft_slo_ms: Annotated[float, typer.Option(help="Objective; 0: the configured one.")] = 0.0,
    tpot_slo_ms: Annotated[float, typer.Option(help="Objective; 0: the configured one.")] = 0.0,
    as_json: JsonFlag = False,
    url: UrlFlag = "",
) -> None:
    """Ask the planner which pools a supposed load needs."""
    body = {
        "requests_s": requests_s,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "cached_share": cached_share,
        "ttft_slo_ms": ttft_slo_ms,
        "tpot_slo_ms": tpot_slo_ms,
    }
    answer = ask("what-if", url, "what-if", WhatIfAnswer, body)
    if as_json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    typer.echo(f"{answer.prefill} prefill and {answer.decode} decode workers, {answer.serving}")
    for reason in answer.reasons:
        typer.echo(f"  {reason}")
    for name, value in answer.inputs.items():
        typer.echo(f"    {name} = {value:.4g}")
