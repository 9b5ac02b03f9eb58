"""Messages as bytes, for sessions and files: the wire's own encoding."""

from google.protobuf.message import DecodeError

from wire.cluster import ClusterSnapshot
from wire.cluster_codec import decode_snapshot, encode_snapshot
from wire.codec import decode_worker_frame, encode_client_frame, encode_worker_frame
from wire.gen import control_pb2, worker_pb2
from wire.messages import ClientFrame, WorkerFrame


def pack_client_frame(frame: ClientFrame) -> bytes:
    return encode_client_frame(frame).SerializeToString()


def pack_worker_frame(frame: WorkerFrame) -> bytes:
    return encode_worker_frame(frame).SerializeToString()


def unpack_worker_frame(data: bytes) -> WorkerFrame:
    """Raises ValueError for bytes that are none."""
    try:
        return decode_worker_frame(worker_pb2.WorkerFrame.FromString(data))
    except DecodeError as error:
        raise ValueError(f"no worker's frame: {error}") from error


def pack_snapshot(snapshot: ClusterSnapshot) -> bytes:
    return encode_snapshot(snapshot).SerializeToString()


def unpack_snapshot(data: bytes) -> ClusterSnapshot:
    """Raises as unpack_worker_frame."""
    try:
        return decode_snapshot(control_pb2.ClusterSnapshot.FromString(data))
    except DecodeError as error:
        raise ValueError(f"no list of workers: {error}") from error
