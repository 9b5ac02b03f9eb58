"""Between the session messages and protobuf: one encode and one decode function each."""

from array import array
from collections.abc import Callable, Sequence

from wire.errors import BatonError, ErrorCode
from wire.gen import worker_pb2
from wire.kv_codec import decode_handle, encode_handle
from wire.messages import (
    BlockEvent,
    BlockSnapshot,
    CancelLeg,
    ClientFrame,
    ContinueLeg,
    FinishReason,
    GenerateRequest,
    Hello,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegMove,
    LegPublished,
    LegTokens,
    LegTransferred,
    SnapshotRequest,
    StartLeg,
    WorkerFrame,
)
from wire.report_codec import decode_report, encode_report
from wire.sampling_codec import decode_sampling, decode_tokens, encode_sampling, encode_tokens
from wire.token_columns import put_columns, take_columns


def _pack_u32(values: Sequence[int]) -> bytes:
    return array("I", values).tobytes()


def _unpack_u32(data: bytes) -> tuple[int, ...]:
    return tuple(_unpack("I", data))


def _pack_u64(values: Sequence[int]) -> bytes:
    return array("Q", values).tobytes()


def _unpack_u64(data: bytes) -> tuple[int, ...]:
    return tuple(_unpack("Q", data))


def _unpack(typecode: str, data: bytes) -> "array[int]":
    values: array[int] = array(typecode)
    if len(data) % values.itemsize:
        raise BatonError(
            ErrorCode.INVALID_REQUEST,
            f"a packed list of {values.itemsize}-byte integers has {len(data)} bytes",
        )
    values.frombytes(data)
    return values


def encode_client_frame(frame: ClientFrame) -> worker_pb2.ClientFrame:
    if isinstance(frame, StartLeg):
        return worker_pb2.ClientFrame(start=_encode_start(frame))
    if isinstance(frame, CancelLeg):
        return worker_pb2.ClientFrame(cancel=worker_pb2.CancelLeg(leg_id=frame.leg_id))
    if isinstance(frame, ContinueLeg):
        return worker_pb2.ClientFrame(
            continue_leg=worker_pb2.ContinueLeg(
                leg_id=frame.leg_id, index=frame.index, tokens=_pack_u32(frame.tokens)
            )
        )
    if isinstance(frame, Hello):
        return worker_pb2.ClientFrame(
            hello=worker_pb2.Hello(
                client_id=frame.client_id,
                protocol=frame.protocol,
                reads_columns=frame.reads_columns,
            )
        )
    return worker_pb2.ClientFrame(snapshot=worker_pb2.SnapshotRequest())


def decode_client_frame(message: worker_pb2.ClientFrame) -> ClientFrame:
    """Raises BatonError INVALID_REQUEST when the frame holds nothing that this version knows."""
    kind = message.WhichOneof("kind")
    if kind == "start":
        return _decode_start(message.start)
    if kind == "cancel":
        return CancelLeg(message.cancel.leg_id)
    if kind == "continue_leg":
        told = message.continue_leg
        return ContinueLeg(told.leg_id, told.index, _unpack_u32(told.tokens))
    if kind == "hello":
        hello = message.hello
        return Hello(hello.client_id, hello.protocol, hello.reads_columns)
    if kind == "snapshot":
        return SnapshotRequest()
    raise BatonError(ErrorCode.INVALID_REQUEST, "a client frame of an unknown kind")


def _encode_start(leg: StartLeg) -> worker_pb2.StartLeg:
    request = leg.request
    return worker_pb2.StartLeg(
        leg_id=leg.leg_id,
        request_id=request.request_id,
        prompt_tokens=_pack_u32(request.prompt_tokens),
        output_tokens=_pack_u32(leg.output_tokens),
        sampling=encode_sampling(request.sampling),
        block_hashes=_pack_u64(request.block_hashes),
        prefill_only=leg.prefill_only,
        handle=None if leg.handle is None else encode_handle(leg.handle),
        priority=request.priority,
        cache_salt=request.cache_salt,
        share=leg.share,
        waits=leg.waits,
        traceparent=request.traceparent,
        keep_s=request.keep_s,
    )


def _decode_start(message: worker_pb2.StartLeg) -> StartLeg:
    request = GenerateRequest(
        request_id=message.request_id,
        prompt_tokens=_unpack_u32(message.prompt_tokens),
        sampling=decode_sampling(message.sampling),
        block_hashes=_unpack_u64(message.block_hashes),
        priority=message.priority,
        cache_salt=message.cache_salt,
        traceparent=message.traceparent,
        keep_s=message.keep_s,
    )
    return StartLeg(
        leg_id=message.leg_id,
        request=request,
        output_tokens=_unpack_u32(message.output_tokens),
        prefill_only=message.prefill_only,
        handle=decode_handle(message.handle) if message.HasField("handle") else None,
        share=message.share,
        waits=message.waits,
    )


def encode_worker_frame(frame: WorkerFrame, *, in_columns: bool = False) -> worker_pb2.WorkerFrame:
    """in_columns: for a client that reads tokens in columns."""
    snapshot = frame.snapshot
    columns, events = take_columns(frame.events) if in_columns else (None, frame.events)
    return worker_pb2.WorkerFrame(
        events=[_encode_event(event) for event in events],
        columns=columns,
        report=None if frame.report is None else encode_report(frame.report),
        block_events=[
            worker_pb2.BlockEvent(
                sequence_number=event.sequence_number,
                stored=_pack_u64(event.stored),
                removed=_pack_u64(event.removed),
                host_stored=_pack_u64(event.host_stored),
                host_removed=_pack_u64(event.host_removed),
            )
            for event in frame.block_events
        ],
        snapshot=None
        if snapshot is None
        else worker_pb2.BlockSnapshot(
            sequence_number=snapshot.sequence_number,
            stored=_pack_u64(snapshot.stored),
            host_stored=_pack_u64(snapshot.host_stored),
        ),
    )


def decode_worker_frame(message: worker_pb2.WorkerFrame) -> WorkerFrame:
    """Raises BatonError INVALID_REQUEST for what this version does not know or nothing can be."""
    snapshot = None
    if message.HasField("snapshot"):
        snapshot = BlockSnapshot(
            message.snapshot.sequence_number,
            _unpack_u64(message.snapshot.stored),
            _unpack_u64(message.snapshot.host_stored),
        )
    events = tuple(map(_decode_event, message.events))
    if message.HasField("columns"):
        events = put_columns(message.columns, events)
    return WorkerFrame(
        events=events,
        report=decode_report(message.report) if message.HasField("report") else None,
        block_events=tuple(map(_decode_blocks, message.block_events)),
        snapshot=snapshot,
    )


def _decode_blocks(event: worker_pb2.BlockEvent) -> BlockEvent:
    return BlockEvent(
        event.sequence_number,
        _unpack_u64(event.stored),
        _unpack_u64(event.removed),
        _unpack_u64(event.host_stored),
        _unpack_u64(event.host_removed),
    )


def _encode_event(event: LegEvent) -> worker_pb2.LegEvent:
    if isinstance(event, LegTokens):
        tokens = encode_tokens(event)
        return worker_pb2.LegEvent(leg_id=event.leg_id, tokens=tokens)
    if isinstance(event, LegAccepted):
        accepted = worker_pb2.LegAccepted(num_cached_tokens=event.num_cached_tokens)
        return worker_pb2.LegEvent(leg_id=event.leg_id, accepted=accepted)
    if isinstance(event, LegPublished):
        return worker_pb2.LegEvent(leg_id=event.leg_id, published=encode_handle(event.handle))
    if isinstance(event, LegFinished):
        finished = worker_pb2.LegFinished(
            reason=event.reason.value,
            num_cached_tokens=event.num_cached_tokens,
            queue_s=event.queue_s,
            prefill_s=event.prefill_s,
        )
        return worker_pb2.LegEvent(leg_id=event.leg_id, finished=finished)
    if isinstance(event, LegFailed):
        failed = worker_pb2.LegFailed(code=event.code.value, message=event.message)
        return worker_pb2.LegEvent(leg_id=event.leg_id, failed=failed)
    if isinstance(event, LegMove):
        move = worker_pb2.LegMove(reason=event.reason, only_to_room=event.only_to_room)
        return worker_pb2.LegEvent(leg_id=event.leg_id, move=move)
    transferred = worker_pb2.LegTransferred(
        num_bytes=event.num_bytes,
        transfer_s=event.transfer_s,
        exposed_s=event.exposed_s,
        transport=event.transport,
        failure=event.failure,
    )
    return worker_pb2.LegEvent(leg_id=event.leg_id, transferred=transferred)


def _decode_event(message: worker_pb2.LegEvent) -> LegEvent:
    kind = message.WhichOneof("kind")
    if kind == "tokens":  # nearly all of them are
        return decode_tokens(message.leg_id, message.tokens)
    decode = _EVENT_DECODERS.get(kind or "")
    if decode is None:
        raise BatonError(ErrorCode.INVALID_REQUEST, f"a leg event of an unknown kind: {kind}")
    return decode(message)


def _decode_finished(message: worker_pb2.LegEvent) -> LegEvent:
    finished = message.finished
    return LegFinished(
        message.leg_id,
        FinishReason(finished.reason),
        finished.num_cached_tokens,
        finished.queue_s,
        finished.prefill_s,
    )


def _decode_transferred(message: worker_pb2.LegEvent) -> LegEvent:
    event = message.transferred
    return LegTransferred(
        message.leg_id,
        event.num_bytes,
        event.transfer_s,
        event.exposed_s,
        event.transport,
        event.failure,
    )


_EVENT_DECODERS: dict[str, Callable[[worker_pb2.LegEvent], LegEvent]] = {
    "accepted": lambda m: LegAccepted(m.leg_id, m.accepted.num_cached_tokens),
    "published": lambda m: LegPublished(m.leg_id, decode_handle(m.published)),
    "finished": _decode_finished,
    "failed": lambda m: LegFailed(m.leg_id, ErrorCode(m.failed.code), m.failed.message),
    "transferred": _decode_transferred,
    "move": lambda m: LegMove(m.leg_id, m.move.reason, m.move.only_to_room),
}
