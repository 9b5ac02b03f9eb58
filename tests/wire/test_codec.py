"""Every message comes back from the wire as it went in."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import cluster_codec, codec
from wire.cluster import (
    ClusterSnapshot,
    ClusterStatus,
    ControlOrder,
    Fingerprint,
    Mode,
    OrderKind,
    PairStatus,
    PoolProgress,
    ProcessStatus,
    ServingMode,
    WorkerBeat,
    WorkerInfo,
    WorkerStatus,
)
from wire.errors import BatonError, ErrorCode
from wire.gen import control_pb2, worker_pb2
from wire.kv import FabricAddress, KVHandle
from wire.messages import (
    BlockEvent,
    BlockSnapshot,
    CancelLeg,
    ContinueLeg,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Hello,
    HostLoad,
    LegAccepted,
    LegFailed,
    LegFinished,
    LegMove,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    SamplingParams,
    SnapshotRequest,
    StartLeg,
    TokenLogprobs,
    WorkerFrame,
    WorkerReport,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I32 = st.integers(-(2**31), 2**31 - 1)
F32 = st.floats(allow_nan=False, width=32)
F64 = st.floats(allow_nan=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BY_TYPE: dict[Any, Any] = {str: TEXT, bool: st.booleans(), float: F64, int: U32}


def build(cls: type, **fields: Any) -> Any:
    """A strategy for a record: by field name where given, else by the field's type."""
    own: Any = msgspec.structs if issubclass(cls, msgspec.Struct) else dataclasses
    known = {f.name: fields.get(f.name, BY_TYPE.get(f.type)) for f in own.fields(cls)}
    return st.builds(cls, **{name: value for name, value in known.items() if value is not None})


def tuples(item: Any) -> Any:
    return st.lists(item, max_size=5).map(tuple)


ADDRESS = build(FabricAddress, transports=tuples(TEXT))
HANDLE = build(KVHandle, handle_id=st.binary(max_size=16), epoch=U64, address=ADDRESS)
SAMPLING = build(
    SamplingParams,
    temperature=F32,
    top_p=F32,
    top_k=I32,
    min_p=F32,
    repetition_penalty=F32,
    presence_penalty=F32,
    frequency_penalty=F32,
    seed=U64,
    stop_token_ids=tuples(U32),
    logit_bias=tuples(st.tuples(U32, F32)),
    top_logprobs=st.none() | U32,
    grammar=st.none() | build(Grammar, kind=st.sampled_from(GrammarKind)),
)
REQUEST = build(
    GenerateRequest,
    prompt_tokens=tuples(U32),
    sampling=SAMPLING,
    block_hashes=tuples(U64),
    priority=I32,
)
START = build(
    StartLeg,
    leg_id=U64,
    request=REQUEST,
    output_tokens=tuples(U32),
    handle=st.none() | HANDLE,
)
CLIENT_FRAMES = (
    START
    | build(CancelLeg, leg_id=U64)
    | build(ContinueLeg, leg_id=U64, tokens=tuples(U32))
    | build(Hello)
    | st.just(SnapshotRequest())
)
LOGPROBS = build(TokenLogprobs, logprob=F32, top=tuples(st.tuples(U32, F32)))
EVENTS = (
    build(LegAccepted, leg_id=U64)
    | build(LegPublished, leg_id=U64, handle=HANDLE)
    | build(LegTokens, leg_id=U64, tokens=tuples(U32), logprobs=tuples(LOGPROBS))
    | build(LegTransferred, leg_id=U64)
    | build(LegFinished, leg_id=U64, reason=st.sampled_from(FinishReason))
    | build(LegFailed, leg_id=U64, code=st.sampled_from(ErrorCode))
    | build(LegMove, leg_id=U64)
)
REPORT = build(WorkerReport, role=st.sampled_from(Role), host=build(HostLoad))
WORKER_FRAMES = build(
    WorkerFrame,
    events=tuples(EVENTS),
    report=st.none() | REPORT,
    block_events=tuples(
        build(
            BlockEvent,
            stored=tuples(U64),
            removed=tuples(U64),
            host_stored=tuples(U64),
            host_removed=tuples(U64),
        )
    ),
    snapshot=st.none() | build(BlockSnapshot, stored=tuples(U64), host_stored=tuples(U64)),
)
INFO = build(
    WorkerInfo,
    pairs=tuples(build(PairStatus, alarms=tuples(TEXT))),
    epoch=U64,
    role=st.sampled_from(Role),
    fabric=ADDRESS,
    fingerprint=build(Fingerprint),
)
STATUS = build(
    ClusterStatus,
    workers=tuples(build(WorkerStatus, info=INFO, report=REPORT)),
    processes=tuples(build(ProcessStatus)),
)


@given(CLIENT_FRAMES)
def test_a_client_frame_survives_the_wire(frame: Any) -> None:
    data = codec.encode_client_frame(frame).SerializeToString()
    assert codec.decode_client_frame(worker_pb2.ClientFrame.FromString(data)) == frame


@given(WORKER_FRAMES, st.booleans())
def test_a_worker_frame_survives_the_wire(frame: WorkerFrame, in_columns: bool) -> None:
    data = codec.encode_worker_frame(frame, in_columns=in_columns).SerializeToString()
    assert codec.decode_worker_frame(worker_pb2.WorkerFrame.FromString(data)) == frame


@given(build(WorkerBeat, info=INFO, report=REPORT))
def test_a_beat_survives_the_wire(beat: WorkerBeat) -> None:
    assert cluster_codec.decode_beat(cluster_codec.encode_beat(beat)) == beat


@given(
    build(
        ClusterSnapshot,
        workers=tuples(INFO),
        pools=tuples(build(PoolProgress)),
        serving=build(ServingMode, mode=st.sampled_from(Mode)),
    )
)
def test_a_snapshot_survives_the_wire(snapshot: ClusterSnapshot) -> None:
    assert cluster_codec.decode_snapshot(cluster_codec.encode_snapshot(snapshot)) == snapshot


def test_a_snapshot_of_an_older_control_plane_leaves_the_choice_to_the_policy() -> None:
    assert cluster_codec.decode_snapshot(control_pb2.ClusterSnapshot()).serving == ServingMode()


def test_a_mode_of_a_later_version_is_refused_by_name() -> None:
    message = control_pb2.ServingMode(mode="woven", epoch=3)
    with pytest.raises(ValueError, match="woven"):
        cluster_codec.decode_serving(message)


@given(build(ControlOrder, kind=st.sampled_from(OrderKind), role=st.none() | st.sampled_from(Role)))
def test_an_order_survives_the_wire(order: ControlOrder) -> None:
    assert cluster_codec.decode_order(cluster_codec.encode_order(order)) == order


@given(STATUS)
def test_a_status_survives_the_wire(status: ClusterStatus) -> None:
    assert cluster_codec.decode_status(cluster_codec.encode_status(status)) == status


def test_an_empty_client_frame_is_refused() -> None:
    with pytest.raises(BatonError, match="unknown kind"):
        codec.decode_client_frame(worker_pb2.ClientFrame())


def test_a_grammar_of_an_unknown_kind_is_refused() -> None:
    sampling = worker_pb2.Sampling(grammar_kind="prose", grammar="x")
    start = worker_pb2.StartLeg(leg_id=1, sampling=sampling)
    with pytest.raises(BatonError, match="prose"):
        codec.decode_client_frame(worker_pb2.ClientFrame(start=start))


def test_token_bytes_that_are_no_whole_number_of_tokens_are_refused() -> None:
    start = worker_pb2.StartLeg(leg_id=1, prompt_tokens=b"\x01\x02\x03")
    with pytest.raises(BatonError, match="3 bytes"):
        codec.decode_client_frame(worker_pb2.ClientFrame(start=start))
