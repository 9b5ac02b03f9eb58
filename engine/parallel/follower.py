"""The process of a rank above 0: `python -m engine.parallel.follower DESCRIPTOR`.

    starting --setup--> loading --ready--> waiting --cache--> following --end of pipe--> gone

It ends by itself when its pipe to rank 0 does. Signals are rank 0's to answer.
"""

import contextlib
import mmap
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import torch

from engine.errors import ModelError
from engine.kv_cache import kv_tensor
from engine.models import Model
from engine.parallel.batch_message import on_device, unpack
from engine.parallel.kv_move import KVMove
from engine.parallel.rank_kv import RankKV
from engine.parallel.setup import READY, RankSetup
from engine.parallel.torch_group import TorchGroup
from engine.weights import load
from wire.kv import KVLayout


def follow(pipe: Connection, setup: RankSetup) -> None:
    """Loads this rank's share, then computes it of every step. Raises EOFError when the pipe
    ends, ModelError as `load`, RuntimeError when another rank is lost, OSError where memory cannot
    be pinned for a GPU."""
    torch.set_num_threads(setup.threads)
    group = TorchGroup(setup.shard, setup.timeout_s)
    directory, config, device = setup.directory, setup.config, setup.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    model = load(directory, config, setup.dtype, device, fp8_kv=setup.fp8_kv, group=group)
    pipe.send(READY)
    layout: KVLayout = pipe.recv()
    memory = mmap.mmap(recv_handle(pipe), layout.pool_bytes)
    heads = setup.shard.kv_heads(config.num_kv_heads)
    pool = kv_tensor(memoryview(memory), layout)
    with contextlib.closing(RankKV.over(pool, heads, device, setup.has_own_kv)) as own:
        group.connect(setup.meeting_file, device)
        while True:
            _obey(pipe.recv_bytes(), model, own, pipe)


def _obey(message: bytes, model: Model, own: RankKV, pipe: Connection) -> None:
    """A step, or a move of KV between this rank's memory and the pool."""
    move = KVMove.unpack(message)
    if move is None:
        model.forward(on_device(unpack(message), model.device), own.kv)
        return
    assert own.mirror is not None, "this rank computes in the pool"
    if not move.is_save:
        own.mirror.load(move.block_ids)
        return

    def saved() -> None:
        with contextlib.suppress(OSError):  # rank 0 has ended, and so does this one
            pipe.send_bytes(b"")

    own.mirror.save(move.block_ids, move.first_layer, move.last_layer, saved)


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
    except (ModelError, RuntimeError, OSError) as error:
        print(f"rank {setup.shard.rank}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
