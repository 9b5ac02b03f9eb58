"""A sequence's side of the prefix cache: what it finds there and what it puts there."""

from engine.block_pool import BlockPool
from engine.cached_block import CachedBlock
from engine.sequence import Sequence


def match_prefix(pool: BlockPool, seq: Sequence) -> list[CachedBlock]:
    """The cached blocks of the sequence's known tokens, short of the last token; those that the
    device holds first.

    The last token is always computed, since its logits give the next one.
    """
    num_blocks = (seq.num_tokens - 1) // seq.block_size
    keys = ((seq.block_hash(i), seq.block_tokens(i)) for i in range(num_blocks))
    return pool.match(keys, seq.request.cache_salt)


def adopt_prefix(seq: Sequence, prefix: list[CachedBlock]) -> None:
    """Makes a claimed prefix the sequence's computed beginning."""
    seq.num_computed = len(prefix) * seq.block_size
    seq.num_stored_blocks = len(prefix)
    seq.tip = prefix[-1] if prefix else None


def store_blocks(pool: BlockPool, seq: Sequence) -> None:
    """Enters the full blocks that were computed since the last call into the prefix cache."""
    num_full = seq.num_computed // seq.block_size
    if num_full == seq.num_stored_blocks or not seq.can_store:
        return
    if seq.tip is not None and not seq.tip.is_on_device:
        # The cache held the prefix in blocks of another sequence, and they were evicted.
        seq.tip, seq.num_stored_blocks = None, 0
    for index in range(seq.num_stored_blocks, num_full):
        seq.tip = pool.store(
            seq.block_ids[index],
            seq.block_hash(index),
            seq.block_tokens(index),
            seq.tip,
            seq.request.cache_salt,
        )
        seq.num_stored_blocks = index + 1
        if seq.tip is None:
            seq.can_store = False
            return


def forget_blocks(seq: Sequence) -> None:
    """The sequence holds no blocks and no computed tokens."""
    seq.block_ids = []
    seq.num_computed = 0
    seq.drafting.num_computed = 0
    seq.num_stored_blocks = 0
    seq.host_slots = []
    seq.tip = None
    seq.can_store = True
