"""One load from the command line's flags, and what is said of where it ran."""

import sys
from datetime import UTC, datetime
from importlib.metadata import version

from rich.console import Console

from baton.commands.loadtest_faults import LocalFaults
from baton.commands.loadtest_flags import LoadFlags, command_line, target_of
from baton.host_facts import host_facts
from baton.state_dir import StateDir
from loadtest.assemble import RunContext
from loadtest.order import plan_workload
from loadtest.server_facts import ask_server
from loadtest.session import Outcome, run_on_terminal
from runtime.clock import SystemClock, wall_time_s

_FILE_WIDTH = 120  # columns, where the output is no terminal
_PACKAGES = ("baton-serve", "uvloop", "httptools", "msgspec", "numpy")


async def load_once(url: str, flags: LoadFlags, console: Console | None) -> Outcome:
    """Everything that can be wrong with the input is found before any load is sent.

    Raises LoadtestError.
    """
    clock = SystemClock()
    target = target_of(url)
    workload = plan_workload(flags.order())
    flags.run_spec(target, "", workload)
    facts = await ask_server(target, flags.model, clock)
    spec = flags.run_spec(target, facts.model, workload)
    context = RunContext(_now(), flags.seed, _host(), command_line(), facts.max_model_len)
    faults = LocalFaults(StateDir.of_environment())
    try:
        return await run_on_terminal(spec, context, clock, console, faults)
    finally:
        await faults.close()


def make_console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


def _now() -> str:
    return datetime.fromtimestamp(wall_time_s(), UTC).isoformat(timespec="seconds")


def _host() -> dict[str, str]:
    facts = host_facts()
    return {
        "system": facts.system,
        "processor": facts.processor,
        "usable cores": str(facts.num_usable_cores),
        "python": facts.python,
        **{name: version(name) for name in _PACKAGES},
    }
