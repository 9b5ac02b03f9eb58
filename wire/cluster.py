"""What the control plane tells about the cluster: workers, fingerprints, snapshots, status."""

from dataclasses import dataclass

from wire.kv import FabricAddress
from wire.messages import PROTOCOL_VERSION, Role, WorkerReport


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Two workers pair only when these are equal."""

    model: str
    revision: str  # digest of the model's files
    dtype: str
    block_size: int
    kv_layout: str  # KVLayout.signature
    protocol: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class PairStatus:
    """How a worker measured the way from a source to itself. No transport: the probe failed."""

    source: str
    latency_s: float
    bandwidth_bytes_s: float
    transport: str
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A registered worker. A new process of the same worker_id has a new epoch."""

    worker_id: str
    epoch: int
    role: Role
    address: str  # host:port of its Worker service
    fabric: FabricAddress
    fingerprint: Fingerprint
    max_model_len: int
    num_blocks: int
    draining: bool = False
    pid: int = 0
    metrics_url: str = ""
    pairs: tuple[PairStatus, ...] = ()  # of the workers that this one may pull from


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """All live workers; versions grow by one at each change."""

    version: int
    workers: tuple[WorkerInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """A heartbeat. It carries the whole info, so that a registry that restarted knows all again."""

    info: WorkerInfo
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    info: WorkerInfo
    report: WorkerReport
    beat_age_s: float


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process that the local actuator keeps: state is starting, running, stopping or failed.

    detail: the last line that it wrote, when it ended.
    """

    name: str
    kind: str
    pid: int
    state: str
    num_restarts: int
    uptime_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    version: int
    workers: tuple[WorkerStatus, ...] = ()
    processes: tuple[ProcessStatus, ...] = ()
