"""What a prompt's beginning is worth that only a worker's host tier holds."""

from router.outlook import Outlook
from router.policies.policy import HOST_WEIGHT
from wire.block_hash import BLOCK_SIZE


def with_host(
    outlook: Outlook, num_tokens: int, num_new: int, host_blocks: int, own_s: float
) -> tuple[float, int]:
    """Cautious seconds until a prompt's last num_new tokens are in KV, and how many of them are
    computed: the worker brings back what its host holds where that is sooner than own_s, in which
    it computes them all.

    host_blocks: leading blocks of the prompt in either tier. While the worker has not measured what
    a block takes on its way, the host's are worth the published weight of their tier.
    """
    num_left = max(1, num_tokens - host_blocks * BLOCK_SIZE)
    if num_left >= num_new:
        return own_s, num_new
    rest_s = outlook.margin * outlook.costs.prefill_s(num_left, num_tokens - num_left)
    if outlook.host_block_s > 0:
        back_s = (num_new - num_left) / BLOCK_SIZE * outlook.host_block_s
    else:
        back_s = (1 - HOST_WEIGHT) * (own_s - rest_s)
    return (rest_s + back_s, num_left) if rest_s + back_s < own_s else (own_s, num_new)
