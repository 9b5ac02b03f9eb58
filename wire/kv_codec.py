"""Between where KV blocks are and protobuf: addresses and handles."""

from wire.gen import worker_pb2
from wire.kv import FabricAddress, KVHandle


def encode_address(address: FabricAddress) -> worker_pb2.FabricAddress:
    return worker_pb2.FabricAddress(
        host=address.host,
        port=address.port,
        host_id=address.host_id,
        shm_path=address.shm_path,
        transports=address.transports,
        tls=address.tls,
    )


def decode_address(message: worker_pb2.FabricAddress) -> FabricAddress:
    return FabricAddress(
        message.host,
        message.port,
        message.host_id,
        message.shm_path,
        tuple(message.transports),
        message.tls,
    )


def encode_handle(handle: KVHandle) -> worker_pb2.KVHandle:
    return worker_pb2.KVHandle(
        handle_id=handle.handle_id,
        worker_id=handle.worker_id,
        epoch=handle.epoch,
        address=encode_address(handle.address),
        num_tokens=handle.num_tokens,
        lease_s=handle.lease_s,
    )


def decode_handle(message: worker_pb2.KVHandle) -> KVHandle:
    return KVHandle(
        handle_id=message.handle_id,
        worker_id=message.worker_id,
        epoch=message.epoch,
        address=decode_address(message.address),
        num_tokens=message.num_tokens,
        lease_s=message.lease_s,
    )
