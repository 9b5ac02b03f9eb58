"""How many KV blocks a stated memory budget holds."""

from dataclasses import dataclass, replace

from wire.kv import KVLayout

MIB = 1 << 20


class MemoryPlanError(Exception):
    """A budget that cannot hold the model and one block of KV; names both numbers."""

    code = "budget_too_small"


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where a worker's memory goes. Its text is one line for people.

    draft_bytes: a draft model's weights and its cache, which has as many blocks.
    mirror_bytes: of host memory beside a GPU's, for a copy of the KV that the fabric reads.
    """

    layout: KVLayout
    weights_bytes: int
    workspace_bytes: int
    max_model_len: int
    draft_bytes: int = 0
    mirror_bytes: int = 0

    @property
    def num_blocks(self) -> int:
        return self.layout.num_blocks

    @property
    def kv_bytes(self) -> int:
        return self.layout.pool_bytes

    @property
    def kv_tokens(self) -> int:
        return self.layout.num_blocks * self.layout.block_size

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.workspace_bytes + self.kv_bytes + self.draft_bytes

    @property
    def num_full_contexts(self) -> float:
        """Sequences of the longest allowed context that fit at once."""
        return self.num_blocks / -(-self.max_model_len // self.layout.block_size)

    def __str__(self) -> str:
        mirror = f", mirror in host memory {_mib(self.mirror_bytes)}" if self.mirror_bytes else ""
        draft = f"draft model {_mib(self.draft_bytes)}, " if self.draft_bytes else ""
        return (
            f"memory {_mib(self.total_bytes)}: weights {_mib(self.weights_bytes)}, "
            f"workspace {_mib(self.workspace_bytes)}, {draft}KV {_mib(self.kv_bytes)} "
            f"({self.num_blocks} blocks of {self.layout.block_size}, {self.kv_tokens} tokens, "
            f"{self.num_full_contexts:.1f} contexts of {self.max_model_len}){mirror}"
        )


def plan_memory(
    layout: KVLayout,
    budget_bytes: int,
    max_model_len: int,
    *,
    weights_bytes: int = 0,
    workspace_bytes: int = 0,
    budget_is_total: bool = False,
    draft_block_bytes: int = 0,
    draft_weights_bytes: int = 0,
) -> MemoryPlan:
    """The blocks that fit the budget; the layout's own number of blocks is ignored.

    draft_block_bytes: what the cache of a draft model adds to each block.

    The budget is for KV alone, or with `budget_is_total` for weights, workspace and KV together.
    Raises MemoryPlanError when it does not hold a single block.
    """
    taken = weights_bytes + workspace_bytes + draft_weights_bytes if budget_is_total else 0
    block_bytes = layout.block_bytes + draft_block_bytes
    num_blocks = (budget_bytes - taken) // block_bytes
    if num_blocks < 1:
        needs = f"one KV block of {block_bytes} bytes"
        if taken:
            weights = weights_bytes + draft_weights_bytes
            needs += f", weights of {weights} and a workspace of {workspace_bytes}"
        raise MemoryPlanError(
            f"the memory budget of {budget_bytes} bytes is less than the "
            f"{taken + block_bytes} bytes of {needs}"
        )
    return MemoryPlan(
        layout=replace(layout, num_blocks=num_blocks),
        weights_bytes=weights_bytes,
        workspace_bytes=workspace_bytes,
        max_model_len=max_model_len,
        draft_bytes=draft_weights_bytes + num_blocks * draft_block_bytes,
    )


def step_workspace_bytes(
    *,
    vocab_size: int,
    widest_row: int,
    max_batch_tokens: int,
    max_num_seqs: int,
    max_drafts: int = 0,
) -> int:
    """An upper estimate of what one step allocates beyond weights and KV.

    Four float32 rows of the widest activation for each token, and logits with their copies while
    sampling for each sequence and each of its drafts.
    """
    num_sampled = max(max_num_seqs, min(max_num_seqs * (1 + max_drafts), max_batch_tokens))
    return 16 * widest_row * max_batch_tokens + 12 * vocab_size * num_sampled


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MIB:,.0f} MiB" if num_bytes >= 10 * MIB else f"{num_bytes / MIB:.1f} MiB"
