"""Prompt text to token ids and block hashes, off the event loop when the text is long."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tokenizers import Tokenizer

from gateway.segments import SegmentCache, SegmentedTokenizer
from gateway.text_encoder import exact_encoder, fast_encoder
from wire.block_hash import block_hashes

Prompt = str | tuple[int, ...]  # text, or token ids that a client made itself
INLINE_LIMIT, FAST_INLINE_LIMIT = 2_000, 40_000  # characters and token ids


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the router takes it; hashes: of its full blocks."""

    tokens: tuple[int, ...]
    hashes: tuple[int, ...]


class PromptEncoder:
    """Owns the threads for long prompts; close() ends them.

    Short work runs at once: below the limit it takes less than about half a millisecond, and a
    thread would add more latency than it saves.
    """

    def __init__(self, tokenizer: Tokenizer, num_threads: int = 2) -> None:
        fast = fast_encoder(tokenizer)
        self._encode_texts = fast or exact_encoder(tokenizer)
        self._segmented = SegmentedTokenizer(tokenizer, SegmentCache(), self._encode_texts)
        self._inline_limit = FAST_INLINE_LIMIT if fast else INLINE_LIMIT
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="tokenizer")

    async def encode(
        self, prompts: Sequence[Prompt], *, add_special_tokens: bool, salt: str = ""
    ) -> list[PromptTokens]:
        def work() -> list[PromptTokens]:
            return [
                _hashed(self._tokenize(prompt, add_special_tokens, salt), salt)
                for prompt in prompts
            ]

        if sum(map(len, prompts)) < self._inline_limit:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _tokenize(self, prompt: Prompt, add_special_tokens: bool, salt: str) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return prompt
        if not add_special_tokens:
            return self._segmented.tokens(prompt, salt)
        return tuple(self._encode_texts([prompt], add_special_tokens)[0])


def _hashed(tokens: tuple[int, ...], salt: str) -> PromptTokens:
    return PromptTokens(tokens, tuple(block_hashes(tokens, salt)))
