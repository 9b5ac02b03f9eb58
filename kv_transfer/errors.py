"""What can go wrong with a transfer: a bounded reason for metrics, a message for people."""

from enum import StrEnum

from wire.errors import BatonError, ErrorCode


class FailReason(StrEnum):
    """Why a pull, a link or a peer was given up."""

    CANCELLED = "cancelled"
    CLOSED = "closed"  # this process is shutting its fabric down
    UNREACHABLE = "unreachable"  # the source's port cannot be reached
    NOT_A_MEMBER = "not_a_member"  # one side does not know the cluster's secret
    LAYOUT_MISMATCH = "layout_mismatch"
    STALE_PEER = "stale_peer"  # another worker or an earlier process was meant
    UNKNOWN_HANDLE = "unknown_handle"  # never published, released, or expired
    ALREADY_ATTACHED = "already_attached"  # a handle serves one request only
    PREFILL_ABORTED = "prefill_aborted"
    LEASE_EXPIRED = "lease_expired"
    PEER_LOST = "peer_lost"  # the connection ended
    PEER_HUNG = "peer_hung"  # nobody ended the connection, nothing comes
    TIMEOUT = "timeout"  # bytes were readable and did not come in time
    MALFORMED = "malformed"  # bytes that the protocol does not know
    TRANSPORT = "transport"  # the data lane failed
    CORRUPT = "corrupt"  # what arrived is not what the source holds
    QUARANTINED = "quarantined"  # this source's bytes were wrong too often


class TransferError(BatonError):
    """A transfer that cannot go on; the caller recomputes or tries another worker."""

    def __init__(self, reason: FailReason, message: str) -> None:
        super().__init__(ErrorCode.TRANSFER_FAILED, message)
        self.reason = reason


def connection_lost(error: OSError) -> TransferError:
    """What a failed socket call says of the peer: that its connection ended, or, where the system
    gave up since nothing was acknowledged for as long as a peer may be silent, that it hangs."""
    hung = isinstance(error, TimeoutError)
    reason = FailReason.PEER_HUNG if hung else FailReason.PEER_LOST
    return TransferError(reason, f"connection lost: {error}")
