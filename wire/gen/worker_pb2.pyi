from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientFrame(_message.Message):
    __slots__ = ("hello", "start", "cancel", "snapshot", "continue_leg")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_LEG_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    start: StartLeg
    cancel: CancelLeg
    snapshot: SnapshotRequest
    continue_leg: ContinueLeg
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., start: _Optional[_Union[StartLeg, _Mapping]] = ..., cancel: _Optional[_Union[CancelLeg, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotRequest, _Mapping]] = ..., continue_leg: _Optional[_Union[ContinueLeg, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("client_id", "protocol", "reads_columns")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    READS_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    protocol: int
    reads_columns: bool
    def __init__(self, client_id: _Optional[str] = ..., protocol: _Optional[int] = ..., reads_columns: _Optional[bool] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "max_tokens", "min_tokens", "ignore_eos", "stop_token_ids", "top_logprobs", "bias_tokens", "bias_values", "grammar_kind", "grammar")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    BIAS_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_KIND_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: int
    bias_tokens: _containers.RepeatedScalarFieldContainer[int]
    bias_values: _containers.RepeatedScalarFieldContainer[float]
    grammar_kind: str
    grammar: str
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., seed: _Optional[int] = ..., max_tokens: _Optional[int] = ..., min_tokens: _Optional[int] = ..., ignore_eos: _Optional[bool] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[int] = ..., bias_tokens: _Optional[_Iterable[int]] = ..., bias_values: _Optional[_Iterable[float]] = ..., grammar_kind: _Optional[str] = ..., grammar: _Optional[str] = ...) -> None: ...

class StartLeg(_message.Message):
    __slots__ = ("leg_id", "request_id", "prompt_tokens", "output_tokens", "sampling", "block_hashes", "prefill_only", "handle", "priority", "cache_salt", "share", "waits", "keep_s", "traceparent")
    LEG_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    PREFILL_ONLY_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    KEEP_S_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    leg_id: int
    request_id: str
    prompt_tokens: bytes
    output_tokens: bytes
    sampling: Sampling
    block_hashes: bytes
    prefill_only: bool
    handle: KVHandle
    priority: int
    cache_salt: str
    share: bool
    waits: bool
    keep_s: float
    traceparent: str
    def __init__(self, leg_id: _Optional[int] = ..., request_id: _Optional[str] = ..., prompt_tokens: _Optional[bytes] = ..., output_tokens: _Optional[bytes] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., block_hashes: _Optional[bytes] = ..., prefill_only: _Optional[bool] = ..., handle: _Optional[_Union[KVHandle, _Mapping]] = ..., priority: _Optional[int] = ..., cache_salt: _Optional[str] = ..., share: _Optional[bool] = ..., waits: _Optional[bool] = ..., keep_s: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...

class CancelLeg(_message.Message):
    __slots__ = ("leg_id",)
    LEG_ID_FIELD_NUMBER: _ClassVar[int]
    leg_id: int
    def __init__(self, leg_id: _Optional[int] = ...) -> None: ...

class ContinueLeg(_message.Message):
    __slots__ = ("leg_id", "index", "tokens")
    LEG_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    leg_id: int
    index: int
    tokens: bytes
    def __init__(self, leg_id: _Optional[int] = ..., index: _Optional[int] = ..., tokens: _Optional[bytes] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KVHandle(_message.Message):
    __slots__ = ("handle_id", "worker_id", "epoch", "address", "num_tokens", "lease_s")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    handle_id: bytes
    worker_id: str
    epoch: int
    address: FabricAddress
    num_tokens: int
    lease_s: float
    def __init__(self, handle_id: _Optional[bytes] = ..., worker_id: _Optional[str] = ..., epoch: _Optional[int] = ..., address: _Optional[_Union[FabricAddress, _Mapping]] = ..., num_tokens: _Optional[int] = ..., lease_s: _Optional[float] = ...) -> None: ...

class FabricAddress(_message.Message):
    __slots__ = ("host", "port", "host_id", "shm_path", "transports", "tls")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    SHM_PATH_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    host_id: str
    shm_path: str
    transports: _containers.RepeatedScalarFieldContainer[str]
    tls: bool
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., host_id: _Optional[str] = ..., shm_path: _Optional[str] = ..., transports: _Optional[_Iterable[str]] = ..., tls: _Optional[bool] = ...) -> None: ...

class WorkerFrame(_message.Message):
    __slots__ = ("events", "report", "block_events", "snapshot", "columns")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_EVENTS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[LegEvent]
    report: WorkerReport
    block_events: _containers.RepeatedCompositeFieldContainer[BlockEvent]
    snapshot: BlockSnapshot
    columns: TokenColumns
    def __init__(self, events: _Optional[_Iterable[_Union[LegEvent, _Mapping]]] = ..., report: _Optional[_Union[WorkerReport, _Mapping]] = ..., block_events: _Optional[_Iterable[_Union[BlockEvent, _Mapping]]] = ..., snapshot: _Optional[_Union[BlockSnapshot, _Mapping]] = ..., columns: _Optional[_Union[TokenColumns, _Mapping]] = ...) -> None: ...

class TokenColumns(_message.Message):
    __slots__ = ("leg_ids", "indices", "tokens", "device_s", "places")
    LEG_IDS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_S_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    leg_ids: bytes
    indices: bytes
    tokens: bytes
    device_s: bytes
    places: bytes
    def __init__(self, leg_ids: _Optional[bytes] = ..., indices: _Optional[bytes] = ..., tokens: _Optional[bytes] = ..., device_s: _Optional[bytes] = ..., places: _Optional[bytes] = ...) -> None: ...

class LegEvent(_message.Message):
    __slots__ = ("leg_id", "accepted", "published", "tokens", "finished", "failed", "transferred", "move")
    LEG_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TRANSFERRED_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    leg_id: int
    accepted: LegAccepted
    published: KVHandle
    tokens: LegTokens
    finished: LegFinished
    failed: LegFailed
    transferred: LegTransferred
    move: LegMove
    def __init__(self, leg_id: _Optional[int] = ..., accepted: _Optional[_Union[LegAccepted, _Mapping]] = ..., published: _Optional[_Union[KVHandle, _Mapping]] = ..., tokens: _Optional[_Union[LegTokens, _Mapping]] = ..., finished: _Optional[_Union[LegFinished, _Mapping]] = ..., failed: _Optional[_Union[LegFailed, _Mapping]] = ..., transferred: _Optional[_Union[LegTransferred, _Mapping]] = ..., move: _Optional[_Union[LegMove, _Mapping]] = ...) -> None: ...

class LegMove(_message.Message):
    __slots__ = ("reason", "only_to_room")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ONLY_TO_ROOM_FIELD_NUMBER: _ClassVar[int]
    reason: str
    only_to_room: bool
    def __init__(self, reason: _Optional[str] = ..., only_to_room: _Optional[bool] = ...) -> None: ...

class LegAccepted(_message.Message):
    __slots__ = ("num_cached_tokens",)
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    num_cached_tokens: int
    def __init__(self, num_cached_tokens: _Optional[int] = ...) -> None: ...

class LegTokens(_message.Message):
    __slots__ = ("index", "tokens", "logprobs", "device_s")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_S_FIELD_NUMBER: _ClassVar[int]
    index: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    device_s: float
    def __init__(self, index: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., device_s: _Optional[float] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("logprob", "top_tokens", "top_logprobs")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    top_tokens: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, logprob: _Optional[float] = ..., top_tokens: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class LegFinished(_message.Message):
    __slots__ = ("reason", "num_cached_tokens", "queue_s", "prefill_s")
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_S_FIELD_NUMBER: _ClassVar[int]
    reason: str
    num_cached_tokens: int
    queue_s: float
    prefill_s: float
    def __init__(self, reason: _Optional[str] = ..., num_cached_tokens: _Optional[int] = ..., queue_s: _Optional[float] = ..., prefill_s: _Optional[float] = ...) -> None: ...

class LegFailed(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class LegTransferred(_message.Message):
    __slots__ = ("num_bytes", "transfer_s", "exposed_s", "transport", "failure")
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_S_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_S_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    num_bytes: int
    transfer_s: float
    exposed_s: float
    transport: str
    failure: str
    def __init__(self, num_bytes: _Optional[int] = ..., transfer_s: _Optional[float] = ..., exposed_s: _Optional[float] = ..., transport: _Optional[str] = ..., failure: _Optional[str] = ...) -> None: ...

class WorkerReport(_message.Message):
    __slots__ = ("role", "num_steps", "has_work", "draining", "num_running", "num_waiting", "waiting_tokens", "num_blocks", "num_free_blocks", "context_tokens", "num_exports", "num_imports", "step_s", "progress", "totals", "role_epoch", "flipping", "host")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    HAS_WORK_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPORTS_FIELD_NUMBER: _ClassVar[int]
    NUM_IMPORTS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    ROLE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FLIPPING_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    role: str
    num_steps: int
    has_work: bool
    draining: bool
    num_running: int
    num_waiting: int
    waiting_tokens: int
    num_blocks: int
    num_free_blocks: int
    context_tokens: int
    num_exports: int
    num_imports: int
    step_s: float
    progress: int
    totals: StepTotals
    role_epoch: int
    flipping: bool
    host: HostLoad
    def __init__(self, role: _Optional[str] = ..., num_steps: _Optional[int] = ..., has_work: _Optional[bool] = ..., draining: _Optional[bool] = ..., num_running: _Optional[int] = ..., num_waiting: _Optional[int] = ..., waiting_tokens: _Optional[int] = ..., num_blocks: _Optional[int] = ..., num_free_blocks: _Optional[int] = ..., context_tokens: _Optional[int] = ..., num_exports: _Optional[int] = ..., num_imports: _Optional[int] = ..., step_s: _Optional[float] = ..., progress: _Optional[int] = ..., totals: _Optional[_Union[StepTotals, _Mapping]] = ..., role_epoch: _Optional[int] = ..., flipping: _Optional[bool] = ..., host: _Optional[_Union[HostLoad, _Mapping]] = ...) -> None: ...

class HostLoad(_message.Message):
    __slots__ = ("num_blocks", "num_used_blocks", "block_s", "num_restored_tokens", "num_device_hits", "num_host_hits")
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_USED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_S_FIELD_NUMBER: _ClassVar[int]
    NUM_RESTORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICE_HITS_FIELD_NUMBER: _ClassVar[int]
    NUM_HOST_HITS_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    num_used_blocks: int
    block_s: float
    num_restored_tokens: int
    num_device_hits: int
    num_host_hits: int
    def __init__(self, num_blocks: _Optional[int] = ..., num_used_blocks: _Optional[int] = ..., block_s: _Optional[float] = ..., num_restored_tokens: _Optional[int] = ..., num_device_hits: _Optional[int] = ..., num_host_hits: _Optional[int] = ...) -> None: ...

class StepTotals(_message.Message):
    __slots__ = ("num_steps", "num_prefill_steps", "step_s", "num_decode_tokens", "num_context_tokens", "num_prefill_tokens", "num_prefill_pairs")
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILL_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    NUM_DECODE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILL_PAIRS_FIELD_NUMBER: _ClassVar[int]
    num_steps: int
    num_prefill_steps: int
    step_s: float
    num_decode_tokens: int
    num_context_tokens: int
    num_prefill_tokens: int
    num_prefill_pairs: int
    def __init__(self, num_steps: _Optional[int] = ..., num_prefill_steps: _Optional[int] = ..., step_s: _Optional[float] = ..., num_decode_tokens: _Optional[int] = ..., num_context_tokens: _Optional[int] = ..., num_prefill_tokens: _Optional[int] = ..., num_prefill_pairs: _Optional[int] = ...) -> None: ...

class BlockEvent(_message.Message):
    __slots__ = ("sequence_number", "stored", "removed", "host_stored", "host_removed")
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    HOST_STORED_FIELD_NUMBER: _ClassVar[int]
    HOST_REMOVED_FIELD_NUMBER: _ClassVar[int]
    sequence_number: int
    stored: bytes
    removed: bytes
    host_stored: bytes
    host_removed: bytes
    def __init__(self, sequence_number: _Optional[int] = ..., stored: _Optional[bytes] = ..., removed: _Optional[bytes] = ..., host_stored: _Optional[bytes] = ..., host_removed: _Optional[bytes] = ...) -> None: ...

class BlockSnapshot(_message.Message):
    __slots__ = ("sequence_number", "stored", "host_stored")
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    HOST_STORED_FIELD_NUMBER: _ClassVar[int]
    sequence_number: int
    stored: bytes
    host_stored: bytes
    def __init__(self, sequence_number: _Optional[int] = ..., stored: _Optional[bytes] = ..., host_stored: _Optional[bytes] = ...) -> None: ...
