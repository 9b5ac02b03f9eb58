"""The connection on which a source tells a proved reader how its pool is read from then on."""

from kv_transfer.channel import Channel, wait_readable
from kv_transfer.control import Offer, Ping
from kv_transfer.dial import dial
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import join
from kv_transfer.transport import LaneContext


def ask(context: LaneContext, purpose: str) -> tuple[Channel, Offer]:
    """The reader's side: a proved connection, and what the source offers on it. The connection's
    end tells that the source is gone. Raises TransferError."""
    address, config = context.address, context.config
    channel = dial(address, config)
    try:
        join(channel, context.secret, purpose, context.source, config.connect_s)
        channel.send(Ping(0))
        offer = channel.receive_one(config.connect_s)
        if not isinstance(offer, Offer) or offer.num_bytes < context.source_layout.pool_bytes:
            raise TransferError(FailReason.MALFORMED, "the source offers no pool of its size")
    except TransferError:
        channel.close()
        raise
    return channel, offer


def tell(channel: Channel, offer: Offer, timeout_s: float) -> None:
    """The source's side, until the connection ends, which raises TransferError.

    What a reader was told stays true as long as the source lives: it reads only blocks of exports
    that it has attached, which their leases keep, and asks after each pull whether the lease held.
    timeout_s: for the reader's first word.
    """
    if not isinstance(channel.receive_one(timeout_s), Ping):
        raise TransferError(FailReason.MALFORMED, "the peer did not ask for the pool")
    channel.send(offer)
    while True:
        wait_readable([channel.fd], None)
        if channel.receive():
            raise TransferError(FailReason.MALFORMED, "the peer asks again")
