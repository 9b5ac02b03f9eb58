"""Prompts of so many tokens of the bundled tokenizer."""

from random import Random

from tokenizers import Tokenizer

from baton.up_config import DEMO_MODEL


class BenchText:
    """Random words, each of them one token."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
        words = [f" {word}" for word in _words(self.tokenizer)]
        self._words = [word for word in words if len(self._ids(word)) == 1]
        self._rng = Random(1)

    def of(self, num_tokens: int) -> str:
        return "".join(self._rng.choices(self._words, k=num_tokens))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _words(tokenizer: Tokenizer) -> list[str]:
    return [
        token[1:]
        for token in tokenizer.get_vocab()
        if token[:1] == "\u0120" and token[1:].isalpha()
    ]
