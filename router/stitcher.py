"""One answer out of several legs: tokens by index, each given once and in order."""

from collections.abc import Sequence

from wire.messages import TokenLogprobs


class Stitcher:
    """Holds the next index of the answer, drops duplicates, keeps early tokens for later."""

    def __init__(self) -> None:
        self._sent: list[int] = []
        self._early: dict[int, int] = {}
        self._logprobs: dict[int, TokenLogprobs] = {}  # by index, until they are taken

    @property
    def sent(self) -> tuple[int, ...]:
        """All tokens given so far, from index 0."""
        return tuple(self._sent)

    @property
    def num_sent(self) -> int:
        return len(self._sent)

    @property
    def has_gap(self) -> bool:
        """Tokens wait for an earlier one."""
        return bool(self._early)

    def push(self, index: int, tokens: Sequence[int]) -> tuple[int, ...]:
        """Takes tokens index .. index + len(tokens) and gives those that are now in turn."""
        start = len(self._sent)
        if index == start and not self._early:  # nearly always
            self._sent.extend(tokens)
            return tuple(tokens)
        if index <= start:
            self._sent.extend(tokens[start - index :])
        else:
            self._early.update(enumerate(tokens, index))
        while self._early and len(self._sent) in self._early:
            self._sent.append(self._early.pop(len(self._sent)))
        if self._early and len(self._sent) > start:
            self._forget_below(len(self._sent))
        return tuple(self._sent[start:])

    def note_logprobs(self, index: int, logprobs: Sequence[TokenLogprobs]) -> None:
        """Keeps what came with tokens index and on; what came first for an index counts."""
        for at, one in enumerate(logprobs, index):
            self._logprobs.setdefault(at, one)

    def take_logprobs(self, num_tokens: int) -> tuple[TokenLogprobs, ...]:
        """Those of the last `num_tokens` tokens given; empty where none came."""
        if not self._logprobs:
            return ()
        start = len(self._sent) - num_tokens
        taken = [self._logprobs.pop(at, None) for at in range(start, len(self._sent))]
        return tuple(one for one in taken if one is not None)

    def forget_early(self) -> None:
        """Drops what waits behind a gap; a new leg gives it again."""
        self._early.clear()

    def _forget_below(self, index: int) -> None:
        self._early = {at: token for at, token in self._early.items() if at >= index}
