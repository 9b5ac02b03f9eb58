"""Log-probabilities of chosen and of likely tokens, from logits that nothing has changed yet."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.results import SeqOutput
from wire.messages import TokenLogprobs

MAX_TOP = 20


class LogprobStep:
    """One step's log-probabilities: taken before the sampler changes the logits, read after it.

    wanted: for each row of logits how many of the likeliest tokens it asks for; None: nothing.
    """

    def __init__(self, logits: Tensor, wanted: Sequence[int | None]) -> None:
        """logits: [N, vocab] float32; no row's work is done for a row that asks for nothing."""
        rows = [row for row, top in enumerate(wanted) if top is not None]
        self._rows = rows
        self._wanted = wanted
        chosen = logits if len(rows) == len(wanted) else logits[torch.tensor(rows)]
        self._logprobs = chosen.log_softmax(-1)  # [num rows that ask, vocab]

    def of(self, tokens: Sequence[int]) -> list[TokenLogprobs | None]:
        """Each row's, for the token chosen in it; None where it asks for nothing."""
        picked = torch.tensor([max(tokens[row], 0) for row in self._rows])
        device = self._logprobs.device
        values = self._logprobs.gather(-1, picked.to(device).unsqueeze(-1)).squeeze(-1).tolist()
        widest = max(self._wanted[row] or 0 for row in self._rows)
        top = self._logprobs.topk(min(widest, self._logprobs.shape[-1]), dim=-1)
        found: list[TokenLogprobs | None] = [None] * len(self._wanted)
        lists = zip(self._rows, values, top.indices.tolist(), top.values.tolist(), strict=True)
        for row, value, ids, logprobs in lists:
            count = self._wanted[row] or 0
            pairs = tuple(zip(ids[:count], logprobs[:count], strict=True))
            found[row] = TokenLogprobs(value, pairs)
        return found


def logprob_step(logits: Tensor, wanted: Sequence[int | None]) -> LogprobStep | None:
    """None where no row asks for any, which is the usual step."""
    return None if all(top is None for top in wanted) else LogprobStep(logits, wanted)


def with_logprobs(
    outputs: Sequence[SeqOutput], rows: Sequence[int], likely: LogprobStep, num_rows: int
) -> list[SeqOutput]:
    """The outputs with the log-probabilities of the rows that they were chosen from."""
    tokens = [0] * num_rows
    for output, row in zip(outputs, rows, strict=True):
        tokens[row] = output.token
    found = likely.of(tokens)
    return [replace(output, logprobs=found[row]) for output, row in zip(outputs, rows, strict=True)]
