"""Text to token ids: by fastokens where it gives what Hugging Face's tokenizers gives."""

from collections.abc import Callable, Sequence
from random import Random

import fastokens
from tokenizers import Tokenizer

from runtime.log import get_logger

# Texts, and whether the tokens that a tokenizer puts around a text are wanted, to each text's ids.
TextEncoder = Callable[[Sequence[str], bool], list[list[int]]]

_NUM_PROBES = 300
_PARTS = (
    " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\x00", "a", "The", " quick", "don't", "'S",
    "1", "234", "56789", "...", "!?", "_x", "ÀÈ", "é", "e\u0301", "ß", "İ", "ﬁ", "日本語", "한국어",
    "अनु", "مرحبا", "\u200d", "🙂", "👨\u200d👩\u200d👧", "\ufffd", "\U0010ffff", "http://a.b/c?d=e",
    "def f(x):\n    return x", "\u2581", "<0x41>", "<|", "|>", "x" * 70,
)  # fmt: skip
_log = get_logger("gateway")


def fast_encoder(tokenizer: Tokenizer) -> TextEncoder | None:
    """None where fastokens does not know this kind of tokenizer, or any probe comes out different.

    It is 13 times as fast for texts that are new to both (docs/log.md), and lets other threads run.
    """
    try:
        found = fastokens.Tokenizer.from_json_str(tokenizer.to_str())
    except (ValueError, NotImplementedError) as error:
        _log.info("fastokens does not know this kind of tokenizer", reason=str(error))
        return None

    def encode(texts: Sequence[str], special: bool) -> list[list[int]]:
        return [found.encode(text, add_special_tokens=special).ids for text in texts]

    exact = exact_encoder(tokenizer)
    texts = probe_texts(tokenizer)
    for special in (False, True):
        if encode(texts, special) != exact(texts, special):
            _log.info("fastokens would give other tokens")
            return None
    return encode


def exact_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """The reference. Of the library's ways in, only the batch ones let other threads run."""

    def encode(texts: Sequence[str], special: bool) -> list[list[int]]:
        found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in found]

    return encode


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts of everything that tokenizers differ in, this one's added tokens among it."""
    rng = Random(1)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    parts = [*_PARTS, *rng.sample(added, min(len(added), len(_PARTS)))]
    mixed = ["".join(rng.choices(parts, k=rng.randint(1, 24))) for _ in range(_NUM_PROBES)]
    return ["", *parts, *mixed]
