"""What an engine is told once, at its start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The limits of one engine. `max_batch_tokens` bounds a step; decodes count first.

    A step runs at most min(max_num_seqs, max_batch_tokens) sequences, so that every one of them
    can decode in every step. Raises ValueError for a limit that allows nothing.
    """

    num_blocks: int
    max_model_len: int
    eos_token_ids: tuple[int, ...] = ()
    block_size: int = 16
    max_batch_tokens: int = 512
    max_num_seqs: int = 64

    def __post_init__(self) -> None:
        for name in (
            "num_blocks",
            "max_model_len",
            "block_size",
            "max_batch_tokens",
            "max_num_seqs",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, is {getattr(self, name)}")

    @property
    def max_running(self) -> int:
        return min(self.max_num_seqs, self.max_batch_tokens)

    @property
    def max_table_blocks(self) -> int:
        """Blocks of the longest sequence that the context allows."""
        return self.blocks_for(self.max_model_len)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)
