"""Between the control plane's messages and protobuf: one encode and one decode function each."""

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
from wire.gen import control_pb2
from wire.kv_codec import decode_address, encode_address
from wire.messages import Role
from wire.report_codec import decode_report, encode_report


def encode_worker_info(info: WorkerInfo) -> control_pb2.WorkerInfo:
    fingerprint = info.fingerprint
    return control_pb2.WorkerInfo(
        worker_id=info.worker_id,
        epoch=info.epoch,
        role=info.role.value,
        address=info.address,
        fabric=encode_address(info.fabric),
        fingerprint=control_pb2.Fingerprint(
            model=fingerprint.model,
            revision=fingerprint.revision,
            dtype=fingerprint.dtype,
            block_size=fingerprint.block_size,
            kv_layout=fingerprint.kv_layout,
            protocol=fingerprint.protocol,
        ),
        max_model_len=info.max_model_len,
        num_blocks=info.num_blocks,
        draining=info.draining,
        pid=info.pid,
        metrics_url=info.metrics_url,
        pairs=[_encode_pair(pair) for pair in info.pairs],
        role_epoch=info.role_epoch,
        flipping=info.flipping,
        hardware=info.hardware,
    )


def decode_worker_info(message: control_pb2.WorkerInfo) -> WorkerInfo:
    fingerprint = message.fingerprint
    return WorkerInfo(
        worker_id=message.worker_id,
        epoch=message.epoch,
        role=Role(message.role),
        address=message.address,
        fabric=decode_address(message.fabric),
        fingerprint=Fingerprint(
            model=fingerprint.model,
            revision=fingerprint.revision,
            dtype=fingerprint.dtype,
            block_size=fingerprint.block_size,
            kv_layout=fingerprint.kv_layout,
            protocol=fingerprint.protocol,
        ),
        max_model_len=message.max_model_len,
        num_blocks=message.num_blocks,
        draining=message.draining,
        pid=message.pid,
        metrics_url=message.metrics_url,
        pairs=tuple(_decode_pair(pair) for pair in message.pairs),
        role_epoch=message.role_epoch,
        flipping=message.flipping,
        hardware=message.hardware,
    )


def _encode_pair(pair: PairStatus) -> control_pb2.PairStatus:
    return control_pb2.PairStatus(
        source=pair.source,
        latency_s=pair.latency_s,
        bandwidth_bytes_s=pair.bandwidth_bytes_s,
        transport=pair.transport,
        alarms=pair.alarms,
        wanted_transport=pair.wanted_transport,
        refusal=pair.refusal,
    )


def _decode_pair(message: control_pb2.PairStatus) -> PairStatus:
    return PairStatus(
        message.source,
        message.latency_s,
        message.bandwidth_bytes_s,
        message.transport,
        tuple(message.alarms),
        message.wanted_transport,
        message.refusal,
    )


def encode_beat(beat: WorkerBeat) -> control_pb2.WorkerBeat:
    return control_pb2.WorkerBeat(
        info=encode_worker_info(beat.info), report=encode_report(beat.report), term=beat.term
    )


def decode_beat(message: control_pb2.WorkerBeat) -> WorkerBeat:
    info, report = decode_worker_info(message.info), decode_report(message.report)
    return WorkerBeat(info, report, message.term)


def beat_bytes(beat: WorkerBeat) -> bytes:
    content: bytes = encode_beat(beat).SerializeToString()
    return content


def beat_of_bytes(content: bytes) -> WorkerBeat:
    return decode_beat(control_pb2.WorkerBeat.FromString(content))


def encode_order(order: ControlOrder) -> control_pb2.ControlOrder:
    role = "" if order.role is None else order.role.value
    return control_pb2.ControlOrder(
        kind=order.kind.value,
        role=role,
        count=order.count,
        term=order.term,
        beat_s=order.beat_s,
    )


def decode_order(message: control_pb2.ControlOrder) -> ControlOrder:
    """Raises ValueError for a kind or a role that this version does not know."""
    role = Role(message.role) if message.role else None
    kind = OrderKind(message.kind)
    return ControlOrder(kind, role, message.count, message.term, message.beat_s)


def encode_snapshot(snapshot: ClusterSnapshot) -> control_pb2.ClusterSnapshot:
    return control_pb2.ClusterSnapshot(
        version=snapshot.version,
        workers=[encode_worker_info(worker) for worker in snapshot.workers],
        pools=[_encode_pool(pool) for pool in snapshot.pools],
        serving=encode_serving(snapshot.serving),
    )


def decode_snapshot(message: control_pb2.ClusterSnapshot) -> ClusterSnapshot:
    """Raises ValueError for a mode or role that this version does not know."""
    return ClusterSnapshot(
        message.version,
        tuple(decode_worker_info(worker) for worker in message.workers),
        tuple(_decode_pool(pool) for pool in message.pools),
        decode_serving(message.serving),
    )


def encode_serving(serving: ServingMode) -> control_pb2.ServingMode:
    return control_pb2.ServingMode(mode=serving.mode.value, epoch=serving.epoch)


def decode_serving(message: control_pb2.ServingMode) -> ServingMode:
    """Raises ValueError for a mode that this version does not know."""
    return ServingMode(Mode(message.mode) if message.mode else Mode.HYBRID, message.epoch)


def _encode_pool(pool: PoolProgress) -> control_pb2.PoolProgress:
    return control_pb2.PoolProgress(
        role=pool.role.value, wanted=pool.wanted, running=pool.running, starting=pool.starting
    )


def _decode_pool(message: control_pb2.PoolProgress) -> PoolProgress:
    return PoolProgress(Role(message.role), message.wanted, message.running, message.starting)


def encode_status(status: ClusterStatus) -> control_pb2.ClusterStatus:
    return control_pb2.ClusterStatus(
        version=status.version,
        workers=[
            control_pb2.WorkerStatus(
                info=encode_worker_info(worker.info),
                report=encode_report(worker.report),
                beat_age_s=worker.beat_age_s,
            )
            for worker in status.workers
        ],
        processes=[
            control_pb2.ProcessStatus(
                name=process.name,
                kind=process.kind,
                pid=process.pid,
                state=process.state,
                num_restarts=process.num_restarts,
                uptime_s=process.uptime_s,
                detail=process.detail,
            )
            for process in status.processes
        ],
    )


def decode_status(message: control_pb2.ClusterStatus) -> ClusterStatus:
    return ClusterStatus(
        version=message.version,
        workers=tuple(
            WorkerStatus(
                decode_worker_info(worker.info), decode_report(worker.report), worker.beat_age_s
            )
            for worker in message.workers
        ),
        processes=tuple(
            ProcessStatus(
                process.name,
                process.kind,
                process.pid,
                process.state,
                process.num_restarts,
                process.uptime_s,
                process.detail,
            )
            for process in message.processes
        ),
    )
