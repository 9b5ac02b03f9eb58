"""The heads of a cache that one rank computes with, and their way to the pool of all ranks.

    pool of the worker, in host memory   | heads of rank 0 | heads of rank 1 |
                                              ^ mirror          ^ mirror
    memory of each rank's device         | heads of rank 0 | | heads of rank 1 |

Ranks on CPUs compute in the pool itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.host_mirror import HostMirror


@dataclass(frozen=True, slots=True)
class RankKV:
    """kv: [layers, blocks, parts, this rank's heads, block_size, head_dim], what the rank computes
    in; mirror: None where that is the pool."""

    kv: Tensor
    mirror: HostMirror | None = None

    @classmethod
    def over(cls, pool: Tensor, heads: range, device: torch.device, is_own: bool) -> "RankKV":
        """pool: the whole model's cache, in host memory. is_own: the rank has memory of its own.

        Raises OSError where host memory cannot be pinned for a GPU.
        """
        share = of_heads(pool, heads)
        if not is_own:
            return cls(share)
        own = torch.zeros(share.shape, dtype=share.dtype, device=device)
        return cls(own, HostMirror(own, share))

    def close(self) -> None:
        """Ends the mirror behind its last copy; safe to call twice."""
        if self.mirror is not None:
            self.mirror.close()


def of_heads(kv: Tensor, heads: range) -> Tensor:
    """A run of the heads of a cache, without a copy."""
    return kv[:, :, :, heads.start : heads.stop]


def device_of_rank(first: torch.device, rank: int) -> torch.device:
    """Rank 0's device is `first`; GPUs of the others follow it by their numbers."""
    if first.type == "cpu":
        return first
    return torch.device(first.type, (first.index or 0) + rank)
