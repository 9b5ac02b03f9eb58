"""Keeps an answer to a grammar: which tokens may come next, given those that came."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from wire.errors import BatonError
from wire.grammar import load_tokenizer, open_matcher
from wire.messages import Grammar

Allowed = NDArray[np.bool_]  # [vocab or more]


class Matcher(Protocol):
    """One answer's place in its grammar."""

    def allowed(self) -> Allowed:
        """The tokens that may come next: end tokens where the answer may end, and none at all
        once the grammar has failed."""
        ...

    def consume(self, tokens: Sequence[int]) -> None:
        """Moves on by tokens of the answer."""
        ...


# For a grammar and the tokens of the answer that are known already.
OpenMatcher = Callable[[Grammar, Sequence[int]], Matcher]


class GrammarMatchers:
    """Opens matchers over one tokenizer, which is loaded for the first of them.

    Owns one thread that compiles and computes masks while the device works; close() ends it.
    """

    def __init__(self, tokenizer_path: Path, vocab_size: int, eos_token_ids: Collection[int]):
        self._path = tokenizer_path
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def open(self, grammar: Grammar, tokens: Sequence[int] = ()) -> Matcher:
        """Returns at once; what goes wrong with the grammar shows as a mask without a token."""
        return _BackgroundMatcher(
            self._pool, lambda: open_matcher(self._tokenizer, grammar), tokens
        )

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        text = self._path.read_text(encoding="utf-8")
        return load_tokenizer(text, self._vocab_size, self._eos_token_ids)


class _BackgroundMatcher:
    """Every step runs on the pool's one thread, in the order of the calls."""

    def __init__(
        self, pool: ThreadPoolExecutor, make: Callable[[], LLMatcher], tokens: Sequence[int]
    ) -> None:
        self._pool = pool
        self._make = make
        self._matcher: LLMatcher | None = None
        self._mask: Future[Allowed] = pool.submit(self._advance, tuple(tokens))

    def allowed(self) -> Allowed:
        return self._mask.result()

    def consume(self, tokens: Sequence[int]) -> None:
        self._mask = self._pool.submit(self._advance, tuple(tokens))

    def _advance(self, tokens: tuple[int, ...]) -> Allowed:
        try:
            if self._matcher is None:
                self._matcher = self._make()
            self._matcher.consume_tokens(list(tokens))
            if self._matcher.is_error():
                return _NOTHING
            mask = self._matcher.compute_bitmask()
        except (BatonError, OSError, ValueError):
            return _NOTHING
        if self._matcher.is_error():
            return _NOTHING
        return np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little").view(np.bool_)


_NOTHING: Allowed = np.zeros(0, np.bool_)
