"""How a sequence's next token is chosen, and what that token ends."""

import numpy as np

from engine.options import EngineConfig
from engine.results import SeqTimes
from engine.sampler import SampleRow, has_penalties
from engine.sequence import Sequence
from engine.token_history import TokenHistory
from wire.messages import FinishReason, SamplingParams


def sample_row(seq: Sequence, config: EngineConfig, num_ahead: int = 0) -> SampleRow:
    """The sampler's view of the sequence; its token history starts with the first sample.

    num_ahead: tokens that are guessed to come before the one that is chosen here.
    """
    params = seq.request.sampling
    if seq.history is None and has_penalties(params):
        known = np.array(seq.tokens, dtype=np.int64)
        seq.history = TokenHistory(known[: seq.num_prompt], known[seq.num_prompt :])
    is_short = params.min_tokens > 0 and seq.num_outputs + num_ahead < params.min_tokens
    banned = _ending_ids(params, config) if is_short else ()
    return SampleRow(params, seq.num_tokens + num_ahead, banned, seq.history, seq.matcher)


def finish_of(seq: Sequence, token: int, config: EngineConfig) -> FinishReason | None:
    """What `token`, the sequence's last, ends."""
    params = seq.request.sampling
    if token in _ending_ids(params, config):
        return FinishReason.STOP
    is_full = seq.num_tokens >= config.max_model_len
    if is_full or seq.num_outputs >= params.max_tokens:
        return FinishReason.LENGTH
    return FinishReason.PREFILLED if seq.request.prefill_only else None


def times_of(seq: Sequence) -> SeqTimes:
    return SeqTimes(seq.scheduled_s - seq.added_s, seq.first_token_s - seq.scheduled_s)


def _ending_ids(params: SamplingParams, config: EngineConfig) -> tuple[int, ...]:
    if params.ignore_eos:
        return params.stop_token_ids
    return config.eos_token_ids + params.stop_token_ids
