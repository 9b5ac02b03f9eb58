"""Which tokens a sequence has, and how often it generated them: what penalties need."""

import numpy as np
from numpy.typing import NDArray

_SPARE = 64


class TokenHistory:
    """The distinct tokens of prompt and output with their output counts, kept token by token."""

    def __init__(self, prompt: NDArray[np.integer], outputs: NDArray[np.integer]) -> None:
        distinct = np.unique(np.concatenate((prompt, outputs)))
        self._size = len(distinct)
        self._ids = np.zeros(self._size + _SPARE, dtype=np.int64)
        self._ids[: self._size] = distinct
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._place = {int(token): place for place, token in enumerate(distinct)}
        for token in outputs.tolist():
            self._counts[self._place[token]] += 1

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._ids[: self._size]

    @property
    def output_counts(self) -> NDArray[np.float32]:
        return self._counts[: self._size]

    def append(self, token: int) -> None:
        """Adds a generated token."""
        place = self._place.get(token)
        if place is None:
            place = self._add(token)
        self._counts[place] += 1

    def _add(self, token: int) -> int:
        if self._size == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        place = self._place[token] = self._size
        self._ids[place] = token
        self._size += 1
        return place
