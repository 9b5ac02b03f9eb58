"""`baton gateway`: one HTTP front door with its router."""

from baton.commands.flags import config_command
from gateway.config import GatewayConfig
from gateway.process import run

command = config_command(GatewayConfig, "gateway", run)
