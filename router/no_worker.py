"""What a request waits for that no live worker can take, in words."""

from collections.abc import Sequence

from wire.cluster import PoolProgress
from wire.errors import BatonError, ErrorCode

_RETRY_AFTER_S = 1.0


class NoWorker(BatonError):
    """UNAVAILABLE. waiting: how long it was waited for what, as awaited_text says it."""

    def __init__(self, waiting: str) -> None:
        message = f"no worker is live: waited {waiting}"
        super().__init__(ErrorCode.UNAVAILABLE, message, retry_after_s=_RETRY_AFTER_S)
        self.waiting = waiting


def awaited_text(waited_s: float, pools: Sequence[PoolProgress]) -> str:
    """Such as "12.0 s; decode 0/2, 1 starting": of what the platform was asked for, who serves.

    pools: of which those count that lack workers.
    """
    lacking = [pool for pool in pools if pool.wanted > pool.running]
    return "; ".join([f"{waited_s:.1f} s", *(_text(pool) for pool in lacking)])


def _text(pool: PoolProgress) -> str:
    return f"{pool.role.value} {pool.running}/{pool.wanted}, {pool.starting} starting"
