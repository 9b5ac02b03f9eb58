from wire.gen import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fingerprint(_message.Message):
    __slots__ = ("model", "revision", "dtype", "block_size", "kv_layout", "protocol")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    KV_LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    dtype: str
    block_size: int
    kv_layout: str
    protocol: int
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., dtype: _Optional[str] = ..., block_size: _Optional[int] = ..., kv_layout: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class PairStatus(_message.Message):
    __slots__ = ("source", "latency_s", "bandwidth_bytes_s", "transport", "alarms", "wanted_transport", "refusal")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_BYTES_S_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    WANTED_TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    source: str
    latency_s: float
    bandwidth_bytes_s: float
    transport: str
    alarms: _containers.RepeatedScalarFieldContainer[str]
    wanted_transport: str
    refusal: str
    def __init__(self, source: _Optional[str] = ..., latency_s: _Optional[float] = ..., bandwidth_bytes_s: _Optional[float] = ..., transport: _Optional[str] = ..., alarms: _Optional[_Iterable[str]] = ..., wanted_transport: _Optional[str] = ..., refusal: _Optional[str] = ...) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("worker_id", "epoch", "role", "address", "fabric", "fingerprint", "max_model_len", "num_blocks", "draining", "pid", "metrics_url", "pairs", "role_epoch", "flipping", "hardware")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FABRIC_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    METRICS_URL_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    ROLE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FLIPPING_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: int
    role: str
    address: str
    fabric: _worker_pb2.FabricAddress
    fingerprint: Fingerprint
    max_model_len: int
    num_blocks: int
    draining: bool
    pid: int
    metrics_url: str
    pairs: _containers.RepeatedCompositeFieldContainer[PairStatus]
    role_epoch: int
    flipping: bool
    hardware: str
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[int] = ..., role: _Optional[str] = ..., address: _Optional[str] = ..., fabric: _Optional[_Union[_worker_pb2.FabricAddress, _Mapping]] = ..., fingerprint: _Optional[_Union[Fingerprint, _Mapping]] = ..., max_model_len: _Optional[int] = ..., num_blocks: _Optional[int] = ..., draining: _Optional[bool] = ..., pid: _Optional[int] = ..., metrics_url: _Optional[str] = ..., pairs: _Optional[_Iterable[_Union[PairStatus, _Mapping]]] = ..., role_epoch: _Optional[int] = ..., flipping: _Optional[bool] = ..., hardware: _Optional[str] = ...) -> None: ...

class WorkerBeat(_message.Message):
    __slots__ = ("info", "report", "term")
    INFO_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    info: WorkerInfo
    report: _worker_pb2.WorkerReport
    term: int
    def __init__(self, info: _Optional[_Union[WorkerInfo, _Mapping]] = ..., report: _Optional[_Union[_worker_pb2.WorkerReport, _Mapping]] = ..., term: _Optional[int] = ...) -> None: ...

class ControlOrder(_message.Message):
    __slots__ = ("kind", "role", "count", "term", "beat_s")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    BEAT_S_FIELD_NUMBER: _ClassVar[int]
    kind: str
    role: str
    count: int
    term: int
    beat_s: float
    def __init__(self, kind: _Optional[str] = ..., role: _Optional[str] = ..., count: _Optional[int] = ..., term: _Optional[int] = ..., beat_s: _Optional[float] = ...) -> None: ...

class OrderRequest(_message.Message):
    __slots__ = ("worker_id", "order")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    order: ControlOrder
    def __init__(self, worker_id: _Optional[str] = ..., order: _Optional[_Union[ControlOrder, _Mapping]] = ...) -> None: ...

class OrderReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServingMode(_message.Message):
    __slots__ = ("mode", "epoch")
    MODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    mode: str
    epoch: int
    def __init__(self, mode: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("client_id", "follows")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    follows: ServingMode
    def __init__(self, client_id: _Optional[str] = ..., follows: _Optional[_Union[ServingMode, _Mapping]] = ...) -> None: ...

class PoolProgress(_message.Message):
    __slots__ = ("role", "wanted", "running", "starting")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    STARTING_FIELD_NUMBER: _ClassVar[int]
    role: str
    wanted: int
    running: int
    starting: int
    def __init__(self, role: _Optional[str] = ..., wanted: _Optional[int] = ..., running: _Optional[int] = ..., starting: _Optional[int] = ...) -> None: ...

class ClusterSnapshot(_message.Message):
    __slots__ = ("version", "workers", "pools", "serving")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    version: int
    workers: _containers.RepeatedCompositeFieldContainer[WorkerInfo]
    pools: _containers.RepeatedCompositeFieldContainer[PoolProgress]
    serving: ServingMode
    def __init__(self, version: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[WorkerInfo, _Mapping]]] = ..., pools: _Optional[_Iterable[_Union[PoolProgress, _Mapping]]] = ..., serving: _Optional[_Union[ServingMode, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("info", "report", "beat_age_s")
    INFO_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    BEAT_AGE_S_FIELD_NUMBER: _ClassVar[int]
    info: WorkerInfo
    report: _worker_pb2.WorkerReport
    beat_age_s: float
    def __init__(self, info: _Optional[_Union[WorkerInfo, _Mapping]] = ..., report: _Optional[_Union[_worker_pb2.WorkerReport, _Mapping]] = ..., beat_age_s: _Optional[float] = ...) -> None: ...

class ClusterStatus(_message.Message):
    __slots__ = ("version", "workers", "processes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    version: int
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    processes: _containers.RepeatedCompositeFieldContainer[ProcessStatus]
    def __init__(self, version: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., processes: _Optional[_Iterable[_Union[ProcessStatus, _Mapping]]] = ...) -> None: ...

class ProcessStatus(_message.Message):
    __slots__ = ("name", "kind", "pid", "state", "num_restarts", "uptime_s", "detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NUM_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    pid: int
    state: str
    num_restarts: int
    uptime_s: float
    detail: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., num_restarts: _Optional[int] = ..., uptime_s: _Optional[float] = ..., detail: _Optional[str] = ...) -> None: ...
