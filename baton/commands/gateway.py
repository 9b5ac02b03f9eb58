"""`baton gateway`: one HTTP and gRPC front door with its router, in one process or several."""

from baton.commands.flags import config_command
from gateway.config import GatewayConfig
from gateway.process import run


def _run(config: GatewayConfig) -> int:
    if config.processes == 1 or config.group_dir:
        return run(config)
    from baton.gateway_group import run_group  # what keeps processes is loaded only for several

    return run_group(config)


command = config_command(GatewayConfig, "gateway", _run)
