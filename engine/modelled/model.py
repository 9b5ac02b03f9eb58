"""Stands in a model's place: steps last as long as the profile says, tokens follow a rule."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import BatchInput
from profiles.profile import Profile
from profiles.scatter import StepScatter
from runtime.clock import Clock

# As many layers as a worker's prefill announces in groups: the last group's share of a transfer is
# the same as in the full model.
_NUM_LAYERS = 8
_CHOSEN = 1e4  # a logit that no temperature makes a doubt of
_MAX_CREDIT_S = 0.005


def small_kv(config: ModelConfig) -> ModelConfig:
    """The model's limits and vocabulary with a KV cache of 64 bytes a token.

    Blocks, their references, hashes and transfers are real; only their bytes are few.
    """
    return replace(
        config,
        num_layers=_NUM_LAYERS,
        num_kv_heads=1,
        head_dim=2,
        layer_windows=(None,) * _NUM_LAYERS,
        dtype=torch.bfloat16,
    )


class ModelledModel:
    """Has a `ForwardModel`'s interface; called from the engine's thread only.

    A step ends at its planned time: what the engine's own bookkeeping took since the last step is
    part of the step, up to max_credit_s, since the profile's step has it in, too. rng: of the
    profile's scatter.
    The next token depends on the last one and its position alone, so that an answer is the same
    on one worker and on two.
    """

    def __init__(
        self,
        config: ModelConfig,
        profile: Profile,
        clock: Clock,
        sleep: Callable[[float], None],
        rng: Random,
        max_credit_s: float = _MAX_CREDIT_S,
    ) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self._profile = profile
        self._clock = clock
        self._sleep = sleep
        self._max_credit_s = max_credit_s
        self._scatter = StepScatter(profile.scatter, rng)
        self._expected_s = 0.0  # of all steps so far: where the scatter is
        self._last_end_s = float("-inf")
        self._not_before_s = float("-inf")
        # The upper half of a vocabulary holds merged tokens, which decode to text one by one.
        first = config.vocab_size // 2
        ends = set(config.eos_token_ids)
        ids = [token for token in range(first, config.vocab_size) if token not in ends]
        self._ids = np.array(ids or [0], dtype=np.int64)

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """Logits [L, vocab] float32 that choose one token each; the cache is left as it is."""
        now_s, step_s = self._clock.now(), self._scattered(self._expected_step_s(batch), batch)
        gap_s = now_s - self._last_end_s
        start_s = self._last_end_s if gap_s <= min(step_s, self._max_credit_s) else now_s
        start_s = max(start_s, self._not_before_s)
        logits = self._logits(batch)
        self._pass_layers(start_s, step_s, batch, on_layers)
        self._last_end_s = start_s + step_s
        self._sleep_until(self._last_end_s)
        return logits

    def begin_no_sooner(self, at_s: float) -> None:
        """The next step reads what is there from then on."""
        self._not_before_s = at_s

    def _scattered(self, expected_s: float, batch: BatchInput) -> float:
        """What the step takes this time."""
        self._scatter.forget_before(self._expected_s)
        is_prefill = batch.num_tokens > batch.num_sequences
        factor = self._scatter.factor(self._expected_s, is_prefill)
        self._expected_s += expected_s
        return expected_s * factor

    def _expected_step_s(self, batch: BatchInput) -> float:
        ends = batch.context_len.numpy().astype(np.float64)
        counts = np.diff(batch.query_start.numpy()).astype(np.float64)
        starts = ends - counts
        is_decode = counts == 1
        profile, chunks = self._profile, ~is_decode
        pairs = (ends[chunks] ** 2 - starts[chunks] ** 2).sum()
        return float(
            profile.decode_s(int(is_decode.sum()), int(ends[is_decode].sum()))
            + profile.prefill_step_s * chunks.any()
            + profile.prefill_token_s * counts[chunks].sum()
            + profile.prefill_pair_s * pairs
        )

    def _pass_layers(
        self,
        start_s: float,
        step_s: float,
        batch: BatchInput,
        on_layers: Callable[[int], None] | None,
    ) -> None:
        """Prefill is told layer by layer; a step that only decodes has nobody who waits for it."""
        if on_layers is None:
            return
        num_layers = self.config.num_layers
        if batch.num_tokens > batch.num_sequences:
            for layer in range(1, num_layers):
                self._sleep_until(start_s + step_s * layer / num_layers)
                on_layers(layer)
        else:
            for layer in range(1, num_layers):
                on_layers(layer)
        self._sleep_until(start_s + step_s)
        on_layers(num_layers)

    def _sleep_until(self, at_s: float) -> None:
        left_s = at_s - self._clock.now()
        if left_s > 0:
            self._sleep(left_s)

    def _logits(self, batch: BatchInput) -> Tensor:
        rows = batch.logit_rows.numpy()
        last, position = batch.token_ids.numpy()[rows], batch.positions.numpy()[rows]
        chosen = self._ids[(last * 31 + position * 17 + 7) % len(self._ids)]
        logits = torch.zeros(len(rows), self.config.vocab_size)
        logits[torch.arange(len(rows)), torch.from_numpy(chosen)] = _CHOSEN
        return logits
