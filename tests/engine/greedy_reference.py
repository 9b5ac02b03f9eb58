"""Greedy answers of transformers, which the engine's are compared with."""

from collections.abc import Sequence

import torch
import transformers


def greedy_answer(
    reference: transformers.PreTrainedModel, prompt: Sequence[int], num_tokens: int
) -> list[int]:
    """So many tokens behind the prompt; no token ends the answer."""
    out = reference.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens
