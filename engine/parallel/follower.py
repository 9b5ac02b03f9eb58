"""The process of a rank above 0: `python -m engine.parallel.follower DESCRIPTOR`.

    starting --setup--> loading --ready--> waiting --cache--> following --end of pipe--> gone

It ends by itself when its pipe to rank 0 does. Signals are rank 0's to answer.
"""

import mmap
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import torch

from engine.errors import ModelError
from engine.kv_cache import kv_tensor
from engine.parallel.batch_message import unpack
from engine.parallel.leading_model import of_heads
from engine.parallel.setup import READY, RankSetup
from engine.parallel.torch_group import TorchGroup
from engine.weights import load
from wire.kv import KVLayout


def follow(pipe: Connection, setup: RankSetup) -> None:
    """Loads this rank's share, then computes it of every step. Raises EOFError when the pipe
    ends, ModelError as `load`, RuntimeError when another rank is lost."""
    torch.set_num_threads(setup.threads)
    group = TorchGroup(setup.shard, setup.timeout_s)
    directory, config = setup.directory, setup.config
    model = load(directory, config, setup.dtype, fp8_kv=setup.fp8_kv, group=group)
    pipe.send(READY)
    layout: KVLayout = pipe.recv()
    memory = mmap.mmap(recv_handle(pipe), layout.pool_bytes)
    heads = setup.shard.kv_heads(config.num_kv_heads)
    own = of_heads(kv_tensor(memoryview(memory), layout), heads)
    group.connect(setup.meeting_file)
    while True:
        model.forward(unpack(pipe.recv_bytes()), own)


def main() -> int:
    """0 when rank 0 has ended, 1 after an error."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    try:
        setup: RankSetup = pipe.recv()
        follow(pipe, setup)
    except (EOFError, ConnectionError):
        return 0
    except (ModelError, RuntimeError) as error:
        print(f"rank {setup.shard.rank}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
