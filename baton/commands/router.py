"""`baton router`: the router alone, for people with a gateway of their own."""

from baton.commands.flags import config_command
from router.process import run
from router.server_config import RouterServerConfig

command = config_command(RouterServerConfig, "router", run)
