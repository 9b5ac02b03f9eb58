"""Whether the sequences account for every reference in the block pool."""

from collections import Counter
from collections.abc import Iterable

from engine.block_pool import BlockPool
from engine.sequence import SeqState, Sequence

_WITH_BLOCKS = frozenset({SeqState.RUNNING, SeqState.RESERVED, SeqState.HELD})


def check_references(pool: BlockPool, sequences: Iterable[Sequence]) -> None:
    """Every reference belongs to a live sequence that needs it. Raises AssertionError."""
    expected: Counter[int] = Counter()
    pins: Counter[int] = Counter()
    for seq in sequences:
        _check_sequence(seq)
        expected.update(seq.block_ids)
        pins.update(seq.host_slots)
    assert pool.host.pins() == pins, "host slots are pinned for nobody, or not pinned"
    for block_id, references in enumerate(pool.references()):
        assert references == expected[block_id], (
            f"block {block_id} has {references} references, sequences hold {expected[block_id]}"
        )


def _check_sequence(seq: Sequence) -> None:
    label = f"sequence {seq.seq_id} ({seq.state.value})"
    assert seq.state is not SeqState.FINISHED, f"{label} is still known"
    assert seq.block_ids or seq.state not in _WITH_BLOCKS, f"{label} has no blocks"
    assert len(set(seq.block_ids)) == len(seq.block_ids), f"{label} has a block twice"
    assert seq.num_computed <= len(seq.block_ids) * seq.block_size, f"{label} lacks blocks"
    num_held = seq.num_computed + len(seq.host_slots) * seq.block_size
    assert 0 <= num_held < seq.num_tokens, f"{label} has computed {seq.num_computed}"
    assert seq.num_stored_blocks * seq.block_size <= seq.num_computed, f"{label} stored too much"
