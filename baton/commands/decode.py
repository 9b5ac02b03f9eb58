"""`baton decode`: one worker that is asked for decoding first."""

from baton.commands.flags import config_command
from worker.config import WorkerConfig
from worker.process import run

command = config_command(WorkerConfig, "decode", run, {"role": "decode"})
