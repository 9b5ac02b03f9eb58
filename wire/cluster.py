"""What the control plane tells about the cluster: workers, fingerprints, snapshots, status."""

from dataclasses import dataclass
from enum import StrEnum

from wire.kv import FabricAddress, KVLayout, mapping_refusal
from wire.messages import PROTOCOL_VERSION, Role, WorkerReport


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What decides which workers pair: see pair_refusal."""

    model: str
    revision: str  # digest of the model's files
    dtype: str
    block_size: int
    kv_layout: str  # KVLayout.signature
    protocol: int = PROTOCOL_VERSION


def pair_refusal(source: Fingerprint, reader: Fingerprint) -> str:
    """Why `reader` cannot take over what `source` computes, in words; empty where it can.

    Layouts that can be mapped pair: block sizes may differ, and the source may hold more of the
    model's KV heads than the reader.
    """
    differences = (
        ("model", source.model, reader.model),
        ("model files", source.revision, reader.revision),
        ("protocol", source.protocol, reader.protocol),
    )
    texts = [f"{what}: {a} there, {b} here" for what, a, b in differences if a != b]
    if source.kv_layout != reader.kv_layout:
        texts.append(_layout_refusal(source.kv_layout, reader.kv_layout))
    return "; ".join(text for text in texts if text)


def may_pair(one: Fingerprint, other: Fingerprint) -> bool:
    """Either can take over what the other computes."""
    return not pair_refusal(one, other) and not pair_refusal(other, one)


def _layout_refusal(source: str, reader: str) -> str:
    try:
        theirs, mine = KVLayout.from_signature(source, 1), KVLayout.from_signature(reader, 1)
    except ValueError as error:
        return str(error)
    if text := mapping_refusal(theirs, mine):
        return text
    missing = sorted(set(mine.kv_heads) - set(theirs.kv_heads))
    return f"KV heads {missing} are not there" if missing else ""


@dataclass(frozen=True, slots=True)
class PairStatus:
    """How a worker measured the way from a source to itself. No transport: the probe failed.

    wanted_transport: what should have been used; another one that was is a fallback. refusal: why
    nothing is read from this source though it serves the same model; empty for one that pairs.
    """

    source: str
    latency_s: float
    bandwidth_bytes_s: float
    transport: str
    alarms: tuple[str, ...] = ()
    wanted_transport: str = ""
    refusal: str = ""

    @property
    def fell_back(self) -> bool:
        return bool(self.transport) and self.transport != (self.wanted_transport or self.transport)


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
    role_epoch: int = 0  # grows with each change of the role in this process
    flipping: bool = False  # legs of the role before are still running
    hardware: str = ""  # its kind, as the planner's budget names it, or the device's own name


@dataclass(frozen=True, slots=True)
class PoolProgress:
    """How far the platform is with a role's workers. starting: asked for and not serving."""

    role: Role
    wanted: int
    running: int
    starting: int = 0


class Mode(StrEnum):
    """How the cluster serves: one pool for both phases, both by choice, or strictly apart.

    What gateways do: aggregated, every request stays whole on one worker of either role; hybrid,
    their policy decides; disaggregated, prefill workers alone compute prompts and decode workers
    alone answers, but for a rest that is no longer than the small-append limit.
    """

    AGGREGATED = "aggregated"
    HYBRID = "hybrid"
    DISAGGREGATED = "disaggregated"


@dataclass(frozen=True, slots=True)
class ServingMode:
    """The mode that gateways follow. The higher epoch counts; 0: nobody has chosen one."""

    mode: Mode = Mode.HYBRID
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """All live workers; versions grow by one at each change.

    pools: told while a role has no worker or some are starting, for those whose requests wait.
    """

    version: int
    workers: tuple[WorkerInfo, ...] = ()
    pools: tuple[PoolProgress, ...] = ()
    serving: ServingMode = ServingMode()


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """A heartbeat. It carries the whole info, so that a registry that restarted knows all again."""

    info: WorkerInfo
    report: WorkerReport
    term: int = 0  # the highest that this worker has heard


class OrderKind(StrEnum):
    """What the control plane asks of a worker, in answer to a beat or by itself."""

    ACK = "ack"
    DRAIN = "drain"
    FLIP = "flip"
    MIGRATE = "migrate"


@dataclass(frozen=True, slots=True)
class ControlOrder:
    """One order to one worker process.

    role: of a flip. count: of a migrate, how many of its longest requests are to move elsewhere.
    term: the leader's fencing number, 0 without an election; a worker refuses an order of a term
    below the highest that it has heard. beat_s: of an acknowledgement, what the worker waits until
    its next beat; 0: its own interval.
    """

    kind: OrderKind
    role: Role | None = None
    count: int = 0
    term: int = 0
    beat_s: float = 0.0


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
