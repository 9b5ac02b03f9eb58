"""`baton control`: the registry as a process of its own, for clusters over several hosts."""

from baton.commands.flags import config_command
from baton.mode_case import SimulatedModes
from control_plane.config import ControlConfig
from control_plane.process import run


def _run(config: ControlConfig) -> int:
    return run(config, SimulatedModes())


command = config_command(ControlConfig, "control", _run)
