"""`baton control`: the registry as a process of its own, for clusters over several hosts."""

from baton.commands.flags import config_command
from control_plane.config import ControlConfig
from control_plane.process import run

command = config_command(ControlConfig, "control", run)
