"""Workers as the registry sees them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wire.cluster import Fingerprint, WorkerBeat, WorkerInfo
from wire.kv import FabricAddress
from wire.messages import Role, WorkerReport

sys.path.insert(0, str(Path(__file__).parent))  # for planner_cases


def make_beat(worker_id: str = "decode-0", epoch: int = 1, **changes: object) -> WorkerBeat:
    values: dict[str, object] = {
        "role": Role.DECODE,
        "address": "127.0.0.1:7000",
        "fabric": FabricAddress("127.0.0.1", 7001, "host", "", ("tcp",)),
        "fingerprint": Fingerprint("model", "r1", "float32", 16, "L2H2B16D16:float32"),
        "max_model_len": 2048,
        "num_blocks": 64,
        "pid": 4242,
    }
    values.update(changes)
    info = WorkerInfo(worker_id, epoch, **values)  # type: ignore[arg-type]
    return WorkerBeat(info, WorkerReport(info.role, num_running=3))


@pytest.fixture
def beat_of() -> Callable[..., WorkerBeat]:
    return make_beat
