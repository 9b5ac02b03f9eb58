"""`baton prefill`: one worker that is asked for prefills first."""

from baton.commands.flags import config_command
from worker.config import WorkerConfig
from worker.process import run

command = config_command(WorkerConfig, "prefill", run, {"role": "prefill"})
