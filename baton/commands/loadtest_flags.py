"""The flags of `baton loadtest` and `baton loadtest sweep`, and the run that they mean."""

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import typer

from baton.state_dir import StateDir
from loadtest.body import BodyOptions, PromptStyle
from loadtest.errors import LoadtestError
from loadtest.faults import Fault, parse_fault
from loadtest.order import Order
from loadtest.plan import Workload
from loadtest.quantities import parse_duration_s
from loadtest.run import RunSpec
from loadtest.slo import parse_slos
from loadtest.target import Target, parse_target
from loadtest.trace import TraceScaling
from loadtest.words import words_of
from runtime.settings import environment

_WARMUP_SHARE, _WARMUP_LIMIT_S = 0.1, 10.0


def _flag(default: Any, panel: str, text: str) -> Any:
    metadata = {"help": text, "panel": panel}
    if isinstance(default, list):
        return field(default_factory=list, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class LoadFlags:
    """One field a flag; docs/loadtest.md explains them with examples."""

    rate: str = _flag("1", "Arrivals", "Requests a second: 5, or 2..20 for a ramp.")
    duration: str = _flag("", "Arrivals", "How long requests arrive: 30s (default), 5m.")
    requests: int = _flag(0, "Arrivals", "Stop after this many requests; 0: by duration.")
    arrivals: str = _flag("poisson", "Arrivals", "constant, poisson or gamma.")
    burstiness: float = _flag(1.0, "Arrivals", "Shape of gamma arrivals; below 1 is burstier.")
    spike: str = _flag("", "Arrivals", "A rate for a while: 50@30s+10s.")
    phase: list[str] = _flag([], "Arrivals", "'30s rate=5 input=2000 output=20 name=long'; repeat.")
    trace: Path | None = _flag(None, "Requests", "A trace in the Mooncake format to replay.")
    dataset: Path | None = _flag(None, "Requests", "JSONL of {messages: [...]} to send.")
    input_tokens: str = _flag("512", "Requests", "512, 256-1024 or lognormal:512,0.5.")
    output_tokens: str = _flag("64", "Requests", "As --input-tokens.")
    prefix_tokens: int = _flag(0, "Requests", "Tokens of each prompt that a group shares.")
    prefix_groups: int = _flag(1, "Requests", "Groups that share a prefix.")
    turns: int = _flag(1, "Requests", "Requests of a conversation; each waits for the answer.")
    think: str = _flag("0", "Requests", "Mean pause before the next turn.")
    multi_turn: bool = _flag(False, "Requests", "Play a dataset's user messages one by one.")
    time_scale: float = _flag(1.0, "Trace", "2 replays at twice the rate.")
    length_scale: float = _flag(1.0, "Trace", "Scale of prompt lengths.")
    output_scale: float = _flag(1.0, "Trace", "Scale of answer lengths.")
    block_tokens: int = _flag(512, "Trace", "Tokens that one hash id stands for.")
    trace_from: str = _flag("0", "Trace", "Start in the trace's own time.")
    max_input: int = _flag(0, "Trace", "Cut longer prompts; 0: never.")
    max_output: int = _flag(0, "Trace", "Cut longer answers; 0: never.")
    no_spread: bool = _flag(False, "Trace", "Leave arrivals on the trace's ticks.")
    model: str = _flag("", "Server", "Model to ask for; empty: the server's first.")
    style: str = _flag("", "Server", "ids, text or chat; empty: ids, chat for conversations.")
    tokenizer: Path | None = _flag(None, "Server", "tokenizer.json for words of one token.")
    token_range: str = _flag("300:1000", "Server", "Synthetic token ids, from:to.")
    obey_eos: bool = _flag(False, "Server", "Do not send ignore_eos; answers may end early.")
    extra: str = _flag("", "Server", "JSON object to merge into every body.")
    timeout: str = _flag("10m", "Server", "After which a request counts as failed.")
    slo: list[str] = _flag([], "Measuring", "'ttft:500 tpot:30' in ms; 'CLASS=...' for a class.")
    attain: float = _flag(0.9, "Measuring", "Share that must meet --slo, else the exit code is 1.")
    warmup: str = _flag("", "Measuring", "Left out at the start; default 10 %, at most 10 s.")
    cooldown: str = _flag("0", "Measuring", "Left out at the end of arrivals.")
    max_lag_ms: float = _flag(10.0, "Measuring", "p99 dispatch lag above which a run is INVALID.")
    processes: int = _flag(1, "Measuring", "Generator processes.")
    seed: int = _flag(0, "Measuring", "Same seed, same load.")
    kill: list[str] = _flag([], "Faults", "prefill@30s: SIGKILL in the local cluster; repeat.")
    freeze: list[str] = _flag([], "Faults", "decode@30s+5s: stop a process for 5 s; repeat.")

    def order(self) -> Order:
        """Raises LoadtestError."""
        return Order(
            trace=self.trace,
            dataset=self.dataset,
            rate=self.rate,
            duration=self.duration,
            requests=self.requests,
            arrivals=self.arrivals,
            burstiness=self.burstiness,
            spike=self.spike,
            phases=tuple(self.phase),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            prefix_tokens=self.prefix_tokens,
            prefix_groups=self.prefix_groups,
            turns=self.turns,
            think=self.think,
            multi_turn=self.multi_turn,
            scaling=self._scaling(),
            seed=self.seed,
        )

    def run_spec(self, target: Target, model: str, workload: Workload) -> RunSpec:
        """Raises LoadtestError."""
        if self.processes < 1:
            raise LoadtestError("at least one generator process is needed")
        if self.warmup:
            warmup_s = parse_duration_s(self.warmup)
        else:
            warmup_s = min(_WARMUP_SHARE * workload.duration_s, _WARMUP_LIMIT_S)
        return RunSpec(
            target=target,
            workload=workload,
            body=self._body(model),
            slos=parse_slos(self.slo),
            num_processes=self.processes,
            timeout_s=parse_duration_s(self.timeout),
            warmup_s=warmup_s,
            cooldown_s=parse_duration_s(self.cooldown),
            max_lag_ms=self.max_lag_ms,
            faults=self._faults(),
        )

    def _faults(self) -> tuple[Fault, ...]:
        kills = tuple(parse_fault("kill", text) for text in self.kill)
        return kills + tuple(parse_fault("freeze", text) for text in self.freeze)

    def _scaling(self) -> TraceScaling:
        scales = (self.time_scale, self.length_scale, self.output_scale)
        if not all(0 < scale < float("inf") for scale in scales) or self.block_tokens < 1:
            raise LoadtestError("a trace's scales and block size must be positive")
        return TraceScaling(
            time_scale=self.time_scale,
            length_scale=self.length_scale,
            output_scale=self.output_scale,
            block_tokens=self.block_tokens,
            start_s=parse_duration_s(self.trace_from),
            max_input=self.max_input,
            max_output=self.max_output,
            spread=not self.no_spread,
        )

    def _body(self, model: str) -> BodyOptions:
        style = self._style()
        low, _, high = self.token_range.partition(":")
        if not (low.isdigit() and high.isdigit() and int(low) < int(high)):
            raise LoadtestError(f"{self.token_range!r} is not a range of ids such as 300:1000")
        return BodyOptions(
            model=model,
            style=style,
            seed=self.seed,
            low=int(low),
            high=int(high),
            words=() if style is PromptStyle.IDS else words_of(self.tokenizer),
            ignore_eos=not self.obey_eos,
            extra=self._extra(),
        )

    def _style(self) -> PromptStyle:
        if not self.style:
            return self.order().default_style()
        try:
            style = PromptStyle(self.style)
        except ValueError:
            raise LoadtestError(f"the style {self.style!r} is none of ids, text, chat") from None
        if self.dataset is not None and style is not PromptStyle.CHAT:
            raise LoadtestError("a dataset's messages go to the chat endpoint: --style chat")
        return style

    def _extra(self) -> Mapping[str, Any]:
        try:
            return msgspec.json.decode(self.extra or "{}", type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise LoadtestError(f"--extra is not a JSON object: {error}") from error


def target_of(url: str) -> Target:
    """The server at url, or the cluster that runs on this host. Raises LoadtestError."""
    if not url:
        state = StateDir.of_environment().running()
        if state is None:
            raise LoadtestError("no cluster runs on this host: give the URL of a server")
        url = state.http_url
    return parse_target(url, environment("API_KEY"))


def command_line() -> str:
    return shlex.join(["baton", *sys.argv[1:]])


def with_load_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command`, which takes LoadFlags' fields as **flags, the signature typer reads."""
    own = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    shown = [_parameter(one) for one in fields(LoadFlags)]
    parameters = [*own, *shown]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(one: Field[Any]) -> inspect.Parameter:
    default = [] if one.default is MISSING else one.default
    name = f"--{one.name.replace('_', '-')}"
    option = typer.Option(
        default, name, help=one.metadata["help"], rich_help_panel=one.metadata["panel"]
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(one.name, kind, default=option, annotation=one.type)
