"""Trains the byte-level BPE tokenizer and writes the tokenizer files of the model directory.

python tools/demo_model/train_tokenizer.py
"""

import json
from pathlib import Path
from random import Random

from corpus import MODEL_DIR, SEED, document
from dialogue import END, END_OF_TEXT, SPECIAL_TOKENS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
NUM_DOCUMENTS = 60_000
# Letters with the space before them, single digits, runs of marks, line ends, other space.
PIECES = r"'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*\n+|\s+(?!\S)|\s+"


def build() -> Tokenizer:
    """An untrained tokenizer: digits stand alone, bytes are the alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(seed: int = SEED) -> Tokenizer:
    """The tokenizer trained on generated documents; special tokens take the lowest ids."""
    rng = Random(f"{seed}/tokenizer")
    texts = (s.text for _ in range(NUM_DOCUMENTS) for s in document(rng))
    tokenizer = build()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cleaned = (_plain(text) for text in texts)
    tokenizer.train_from_iterator(cleaned, trainer)
    return tokenizer


def _plain(text: str) -> str:
    for token in SPECIAL_TOKENS:
        text = text.replace(token, "")
    return text


def main() -> None:
    """Writes tokenizer.json, chat_template.jinja's text and tokenizer_config.json."""
    MODEL_DIR.mkdir(parents=True, exist_ok=True)
    train().save(str(MODEL_DIR / "tokenizer.json"))
    template = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "chat_template": template,
    }
    path = MODEL_DIR / "tokenizer_config.json"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
