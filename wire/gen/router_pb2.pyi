from wire.gen import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Terms(_message.Message):
    __slots__ = ("tenant", "weight", "ttft_slo_ms", "tpot_slo_ms", "session", "model")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TTFT_SLO_MS_FIELD_NUMBER: _ClassVar[int]
    TPOT_SLO_MS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    weight: float
    ttft_slo_ms: float
    tpot_slo_ms: float
    session: str
    model: str
    def __init__(self, tenant: _Optional[str] = ..., weight: _Optional[float] = ..., ttft_slo_ms: _Optional[float] = ..., tpot_slo_ms: _Optional[float] = ..., session: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class PlaceCall(_message.Message):
    __slots__ = ("place_id", "prompt_tokens", "block_hashes", "num_tokens", "max_tokens", "priority", "cache_salt", "terms", "excluded")
    PLACE_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    place_id: str
    prompt_tokens: _containers.RepeatedScalarFieldContainer[int]
    block_hashes: _containers.RepeatedScalarFieldContainer[int]
    num_tokens: int
    max_tokens: int
    priority: int
    cache_salt: str
    terms: Terms
    excluded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, place_id: _Optional[str] = ..., prompt_tokens: _Optional[_Iterable[int]] = ..., block_hashes: _Optional[_Iterable[int]] = ..., num_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., priority: _Optional[int] = ..., cache_salt: _Optional[str] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ..., excluded: _Optional[_Iterable[str]] = ...) -> None: ...

class Placed(_message.Message):
    __slots__ = ("worker_id", "epoch", "address")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: int
    address: str
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class Forecast(_message.Message):
    __slots__ = ("ttft_s", "tpot_s", "queue_s", "prefill_s", "fetch_s", "exposed_s", "cost")
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    TPOT_S_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_S_FIELD_NUMBER: _ClassVar[int]
    FETCH_S_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_S_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    ttft_s: float
    tpot_s: float
    queue_s: float
    prefill_s: float
    fetch_s: float
    exposed_s: float
    cost: float
    def __init__(self, ttft_s: _Optional[float] = ..., tpot_s: _Optional[float] = ..., queue_s: _Optional[float] = ..., prefill_s: _Optional[float] = ..., fetch_s: _Optional[float] = ..., exposed_s: _Optional[float] = ..., cost: _Optional[float] = ...) -> None: ...

class PairForecast(_message.Message):
    __slots__ = ("prefill_worker", "decode_worker", "forecast")
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    DECODE_WORKER_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    prefill_worker: str
    decode_worker: str
    forecast: Forecast
    def __init__(self, prefill_worker: _Optional[str] = ..., decode_worker: _Optional[str] = ..., forecast: _Optional[_Union[Forecast, _Mapping]] = ...) -> None: ...

class PlaceReply(_message.Message):
    __slots__ = ("prefill", "decode", "kind", "explanation", "candidates", "ttl_s")
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    prefill: Placed
    decode: Placed
    kind: str
    explanation: str
    candidates: _containers.RepeatedCompositeFieldContainer[PairForecast]
    ttl_s: float
    def __init__(self, prefill: _Optional[_Union[Placed, _Mapping]] = ..., decode: _Optional[_Union[Placed, _Mapping]] = ..., kind: _Optional[str] = ..., explanation: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[PairForecast, _Mapping]]] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class PlacedId(_message.Message):
    __slots__ = ("place_id",)
    PLACE_ID_FIELD_NUMBER: _ClassVar[int]
    place_id: str
    def __init__(self, place_id: _Optional[str] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GenerateCall(_message.Message):
    __slots__ = ("request_id", "prompt_tokens", "sampling", "priority", "cache_salt", "terms", "keep_s", "traceparent")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    KEEP_S_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    prompt_tokens: _containers.RepeatedScalarFieldContainer[int]
    sampling: _worker_pb2.Sampling
    priority: int
    cache_salt: str
    terms: Terms
    keep_s: float
    traceparent: str
    def __init__(self, request_id: _Optional[str] = ..., prompt_tokens: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_worker_pb2.Sampling, _Mapping]] = ..., priority: _Optional[int] = ..., cache_salt: _Optional[str] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ..., keep_s: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...

class GenerateDelta(_message.Message):
    __slots__ = ("tokens", "logprobs", "finish_reason", "num_cached_tokens", "kind", "prefill_worker", "decode_worker")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    DECODE_WORKER_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_worker_pb2.TokenLogprobs]
    finish_reason: str
    num_cached_tokens: int
    kind: str
    prefill_worker: str
    decode_worker: str
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_worker_pb2.TokenLogprobs, _Mapping]]] = ..., finish_reason: _Optional[str] = ..., num_cached_tokens: _Optional[int] = ..., kind: _Optional[str] = ..., prefill_worker: _Optional[str] = ..., decode_worker: _Optional[str] = ...) -> None: ...
