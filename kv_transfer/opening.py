"""How a reader reaches a source: the control channel, then the best lane that works."""

from collections.abc import Callable
from dataclasses import dataclass

from kv_transfer.channel import Channel
from kv_transfer.config import TransferConfig
from kv_transfer.device import DeviceMemory
from kv_transfer.dial import dial
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity, join
from kv_transfer.memory import KVMemory
from kv_transfer.quarantine import Quarantine
from kv_transfer.transport import Lane, LaneContext
from kv_transfer.transports.registry import DEVICE_TRANSPORTS, Transports, candidates
from runtime.clock import Clock
from runtime.log import Logger
from wire.kv import FabricAddress, KVLayout


@dataclass(frozen=True, slots=True)
class Reader:
    """What every link of an importer shares."""

    layout: KVLayout
    memory: KVMemory
    clock: Clock
    secret: bytes
    config: TransferConfig
    transports: Transports
    host_id: str
    has_rdma: bool
    log: Logger
    on_fallback: Callable[[], None]
    quarantine: Quarantine


def open_channel(reader: Reader, address: FabricAddress) -> Channel:
    """A connection to the source; nothing is proved yet. Raises what dial raises."""
    return dial(address, reader.config)


def open_lane(
    reader: Reader, address: FabricAddress, source: Identity, channel: Channel
) -> tuple[Lane, KVLayout]:
    """Proves both sides on the control channel and opens the best transport that works; a worse
    one than the best is logged and counted. Gives the lane and the layout of the source's pool.

    Raises TransferError: what the handshake gives, or TRANSPORT when no lane can be opened.
    """
    source_layout = join(channel, reader.secret, "control", source, reader.config.connect_s)
    context = LaneContext(
        address=address,
        source=source,
        source_layout=source_layout,
        layout=reader.layout,
        memory=reader.memory,
        secret=reader.secret,
        config=reader.config,
        clock=reader.clock,
    )
    failures: list[str] = []
    for name in candidates(reader.config, address, reader.host_id, reader.has_rdma):
        if refusal := _refusal(reader, address, name):
            failures.append(f"{name}: {refusal}")
            continue
        try:
            lane = reader.transports[name](context)
        except TransferError as error:
            failures.append(f"{name}: {error}")
            continue
        if failures:
            reader.log.warning("kv transport fell back", to=name, failures=failures)
            reader.on_fallback()
        return lane, source_layout
    raise TransferError(FailReason.TRANSPORT, "no transport works: " + "; ".join(failures))


def _refusal(reader: Reader, address: FabricAddress, name: str) -> str:
    """Why that transport need not be tried, empty where it may work."""
    if name not in reader.transports:
        return "there is no such transport"
    if name not in address.transports:
        return "the source does not offer it"
    if isinstance(reader.memory, DeviceMemory) and name not in DEVICE_TRANSPORTS:
        return "it does not reach a device's memory"
    return ""
