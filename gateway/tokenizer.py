"""Prompt text to token ids and block hashes, off the event loop when the text is long."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tokenizers import Tokenizer

from wire.block_hash import block_hashes

T = TypeVar("T")
INLINE_LIMIT_CHARACTERS = 2_000
INLINE_LIMIT_TOKENS = 4_000


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the router takes it; hashes: of its full blocks."""

    tokens: tuple[int, ...]
    hashes: tuple[int, ...]


class PromptEncoder:
    """Owns the threads for long prompts; close() ends them.

    Short work runs at once: below the limits it costs less than about half a millisecond, and a
    thread would add more latency than it saves.
    """

    def __init__(self, tokenizer: Tokenizer, num_threads: int = 2) -> None:
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="tokenizer")

    async def encode(self, text: str, *, add_special_tokens: bool, salt: str = "") -> PromptTokens:
        def work() -> PromptTokens:
            return _hashed(self._tokenize(text, add_special_tokens), salt)

        return await self._run(work, inline=len(text) < INLINE_LIMIT_CHARACTERS)

    async def hash_tokens(self, tokens: tuple[int, ...], salt: str = "") -> PromptTokens:
        """For a prompt that comes as token ids."""
        return await self._run(
            lambda: _hashed(tokens, salt), inline=len(tokens) < INLINE_LIMIT_TOKENS
        )

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T], *, inline: bool) -> T:
        if inline:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _tokenize(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        # Of the library's ways in, only the batch ones let other threads run meanwhile.
        encodings = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encodings[0].ids)


def _hashed(tokens: tuple[int, ...], salt: str) -> PromptTokens:
    return PromptTokens(tokens, tuple(block_hashes(tokens, salt)))
