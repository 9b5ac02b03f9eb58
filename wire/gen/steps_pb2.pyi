from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RecentRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RecentSteps(_message.Message):
    __slots__ = ("num_steps", "num_prefill_steps", "step_s", "num_decode_tokens", "num_context_tokens", "num_prefill_tokens", "num_prefill_pairs")
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILL_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    NUM_DECODE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILL_PAIRS_FIELD_NUMBER: _ClassVar[int]
    num_steps: _containers.RepeatedScalarFieldContainer[int]
    num_prefill_steps: _containers.RepeatedScalarFieldContainer[int]
    step_s: _containers.RepeatedScalarFieldContainer[float]
    num_decode_tokens: _containers.RepeatedScalarFieldContainer[int]
    num_context_tokens: _containers.RepeatedScalarFieldContainer[int]
    num_prefill_tokens: _containers.RepeatedScalarFieldContainer[int]
    num_prefill_pairs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, num_steps: _Optional[_Iterable[int]] = ..., num_prefill_steps: _Optional[_Iterable[int]] = ..., step_s: _Optional[_Iterable[float]] = ..., num_decode_tokens: _Optional[_Iterable[int]] = ..., num_context_tokens: _Optional[_Iterable[int]] = ..., num_prefill_tokens: _Optional[_Iterable[int]] = ..., num_prefill_pairs: _Optional[_Iterable[int]] = ...) -> None: ...
