"""`baton dashboard`: the operator's page, for any control plane and its gateways."""

from baton.commands.flags import config_command
from dashboard.config import DashboardConfig
from dashboard.process import run

command = config_command(DashboardConfig, "dashboard", run)
