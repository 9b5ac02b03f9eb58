"""What a worker's next steps will take, learned from its telemetry. Pure: no clock, no I/O.

The model is linear in a step's work, so that sums over many steps teach as well as single steps:

    step = step_s + sequence_s * B + context_token_s * K               B sequences hold K tokens
         + prefill_step_s + prefill_token_s * c + prefill_pair_s * ((p + c)^2 - p^2)  if it prefills

It is fitted by recursive least squares on relative errors. A sample makes only that be forgotten
which it exercises: a worker that does not prefill keeps what is known of its prefill. What the fit
itself goes on with may be negative, where B and K rise and fall together; what is predicted from is
the nearest fit that is not, by the same errors.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import numpy as np
import numpy.typing as npt

from profiles.profile import Profile
from router.sorted_window import SortedWindow
from wire.messages import StepTotals

_FORGETTING = 0.98
_PRIOR_WEIGHT = 1e-3  # in samples
_WARM_SAMPLES = 8
_WARM_PREFILL_SAMPLES = 4
_NUM_RESIDUALS = 64
_RESIDUAL_QUANTILE = 0.8
_MAX_MARGIN = 2.0
_HUBER = 0.5  # relative error from which a sample counts less
_SHARE_WINDOW_S = 4.0
_NUM_PACES = 128  # answers that tell how far the forecasts of their tokens' time were off
_PACE_QUANTILE = 0.9
_LEAST_PACES = 16
_MAX_PACE_MARGIN = 2.0
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Grid = tuple[Indices, ...]


@dataclass(frozen=True, slots=True)
class StepCosts:
    """The model's coefficients, in seconds."""

    step_s: float
    sequence_s: float
    context_token_s: float
    prefill_step_s: float
    prefill_token_s: float
    prefill_pair_s: float

    def itl_s(self, num_seqs: float, context_tokens: float) -> float:
        """A step that decodes num_seqs sequences, which hold context_tokens altogether."""
        return self.step_s + self.sequence_s * num_seqs + self.context_token_s * context_tokens

    def prefill_s(self, num_tokens: float, num_cached: float = 0.0) -> float:
        """Computing num_tokens of one prompt behind num_cached, its steps' base left out."""
        end = num_cached + num_tokens
        pairs = end * end - num_cached * num_cached
        return self.prefill_token_s * num_tokens + self.prefill_pair_s * pairs


def profile_costs(profile: Profile) -> StepCosts:
    return StepCosts(
        profile.step_s,
        profile.sequence_s,
        profile.context_token_s,
        profile.prefill_step_s,
        profile.prefill_token_s,
        profile.prefill_pair_s,
    )


# Orders of magnitude for hardware that nobody described; they scale the fit and weigh little.
GENERIC_COSTS = StepCosts(1e-2, 1e-4, 1e-7, 1e-3, 1e-4, 1e-9)


class Paces:
    """By how much answers are slower than forecast: others are placed beside them later on.

    margin: the p90 of actual over predicted of the last 128, at least 1. Less lets the batches of
    an overload miss their objective, more refuses requests that would have met theirs.
    """

    def __init__(self) -> None:
        self._ratios = SortedWindow(_NUM_PACES)  # actual / predicted
        self.margin = 1.0

    def add(self, ratio: float) -> None:
        self._ratios.add(ratio)
        if len(self._ratios) >= _LEAST_PACES:
            ratio = self._ratios.at_share(_PACE_QUANTILE)
            self.margin = min(_MAX_PACE_MARGIN, max(1.0, ratio))


class StepPredictor:
    """One worker's step costs. A seed that is a profile makes it warm from the start.

    pool: a predictor that all workers of equal hardware feed; it answers for the phase that this
    worker has not run, by what it knew at this worker's last report: who asks, and when, changes
    nothing. Times that it gets are seconds of the router's clock.
    """

    def __init__(self, seed: StepCosts | None = None, pool: "StepPredictor | None" = None) -> None:
        self._is_seeded = seed is not None
        self._pool = pool
        self._scale = _vector(seed or GENERIC_COSTS)
        self._scale[self._scale <= 0] = 1e-9
        self._factors = np.ones(6)  # coefficients as multiples of the seed
        self._fit = self._factors  # the same, unbounded
        self._information = _PRIOR_WEIGHT * np.eye(6)
        self._residuals = SortedWindow(_NUM_RESIDUALS)  # actual / predicted
        self._num_samples = 0
        self._num_decode_samples = 0
        self._num_prefill_samples = 0
        self._totals: StepTotals | None = None
        self._at_s = 0.0
        self._share = 0.0
        self._costs: StepCosts | None = None
        self._lent_decode: Floats | None = None  # the pool's factors, where it knows that phase
        self._lent_prefill: Floats | None = None
        self._borrow()
        self.paces = Paces()
        self.token_bytes = 0.0  # of a token's KV on the wire, as pulls have told it

    @property
    def knows_decode(self) -> bool:
        return self._is_seeded or self._num_decode_samples >= _WARM_SAMPLES

    @property
    def knows_prefill(self) -> bool:
        return self._is_seeded or self._num_prefill_samples >= _WARM_PREFILL_SAMPLES

    @property
    def prefill_share(self) -> float:
        """The share of the last seconds that prefill took, 0 .. 1."""
        return min(1.0, self._share)

    @property
    def error(self) -> float:
        """Median relative error of the last predictions, each made before its sample was seen."""
        if not self._residuals:
            return math.nan
        return median([abs(ratio - 1) for ratio in self._residuals.values()])

    @property
    def margin(self) -> float:
        """The p80 of actual over predicted, at least 1, to multiply a cautious prediction by."""
        if not self._residuals:
            return 1.0
        return min(_MAX_MARGIN, max(1.0, self._residuals.quantile(_RESIDUAL_QUANTILE)))

    def costs(self) -> StepCosts | None:
        """The coefficients; None while this worker and its pool are cold for either phase."""
        if self._costs is None:
            decode = self._expert(self.knows_decode, self._lent_decode)
            prefill = self._expert(self.knows_prefill, self._lent_prefill)
            if decode is None or prefill is None:
                return None
            self._costs = StepCosts(*decode.tolist()[:3], *prefill.tolist()[3:])
        return self._costs

    def coefficients(self) -> Floats:
        return self._scale * self._factors

    def observe(self, totals: StepTotals, now_s: float) -> None:
        """Takes a report's totals. Those of a new process, which are smaller, start afresh."""
        self._learn_from(totals, now_s)
        self._borrow()

    def _learn_from(self, totals: StepTotals, now_s: float) -> None:
        last, self._totals = self._totals, totals
        passed_s, self._at_s = now_s - self._at_s, now_s
        if last is None or totals.num_steps < last.num_steps:
            return
        work = _work(totals, last)
        if passed_s > 0:
            prefill_s = float(work[3:] @ self.coefficients()[3:]) if work[3] else 0.0
            kept = math.exp(-passed_s / _SHARE_WINDOW_S)
            self._share = self._share * kept + prefill_s / _SHARE_WINDOW_S
        taken_s = totals.step_s - last.step_s
        if work[0] > 0 and taken_s > 0:
            self.learn(work, taken_s)
            if self._pool is not None:
                self._pool.learn(work, taken_s)

    def learn(self, work: Floats, taken_s: float) -> None:
        """work: [6], steps, sequences, context tokens, prefill steps, tokens and pairs."""
        scaled = work * self._scale / taken_s
        predicted = float(scaled @ self._factors)
        if self._num_samples >= _WARM_SAMPLES and predicted > 0:
            self._residuals.add(1 / predicted)
        self._num_samples += 1
        self._num_decode_samples += bool(work[1] > 0)
        self._num_prefill_samples += bool(work[4] > 0)
        error = 1 - float(scaled @ self._fit)
        weight = 1.0 if abs(error) <= _HUBER else _HUBER / abs(error)
        weighted = scaled * math.sqrt(weight)
        kept, renewed, diagonal = _forgetting((work > 0).tobytes())
        self._information *= kept
        self._information += weighted[:, None] * weighted + renewed
        wanted = scaled * (weight * error) + diagonal * (1 - self._fit)
        self._fit = self._fit + np.linalg.solve(self._information, wanted)
        self._factors = _not_negative(self._fit, self._information)
        self._costs = None

    def _borrow(self) -> None:
        """Takes over what the pool knows. It changes no array that it has given away."""
        pool, self._costs = self._pool, None
        if pool is not None:
            self._lent_decode = pool._factors if pool.knows_decode else None
            self._lent_prefill = pool._factors if pool.knows_prefill else None

    def _expert(self, is_own: bool, lent: Floats | None) -> Floats | None:
        """The coefficients of whoever has run the phase; None where nobody has."""
        if is_own:
            return self.coefficients()
        return None if lent is None or self._pool is None else self._pool._scale * lent


def _not_negative(fit: Floats, information: Floats) -> Floats:
    """The best fit among those without negative factors: what is left out is shared among the
    others as the errors want it. (Lawson and Hanson, Solving Least Squares Problems, chapter 23,
    without its way back.)  # [6], [6, 6] -> [6]
    """
    bounded = fit
    while min(bounded.tolist()) < 0:
        kept, out, rows_out, rows_kept = _parts((bounded <= 0).tobytes())
        moved = information[rows_out] @ fit[out]
        bounded = np.zeros_like(fit)
        bounded[kept] = fit[kept] + np.linalg.solve(information[rows_kept], moved)
    return bounded


@lru_cache(maxsize=64)
def _parts(left_out: bytes) -> tuple[Indices, Indices, Grid, Grid]:
    """Who is kept and who is not, and the matrix's rows of those kept by the columns of each.

    left_out: a byte of 0 or 1 for each coefficient. np.ix_ takes longer than the sums.
    """
    mask = np.frombuffer(left_out, bool)
    kept, out = np.flatnonzero(~mask), np.flatnonzero(mask)
    return kept, out, np.ix_(kept, out), np.ix_(kept, kept)


@lru_cache(maxsize=64)
def _forgetting(exercised: bytes) -> tuple[Floats, Floats, Floats]:
    """What stays of the information, the prior that comes back, and its diagonal.

    [6, 6], [6, 6], [6]; exercised: a byte of 0 or 1 for each coefficient.
    """
    kept = np.where(np.frombuffer(exercised, bool), math.sqrt(_FORGETTING), 1.0)
    renewed = _PRIOR_WEIGHT * (1 - kept)
    return np.outer(kept, kept), np.diag(renewed), renewed


def _vector(costs: StepCosts) -> Floats:
    return np.array(
        [
            costs.step_s,
            costs.sequence_s,
            costs.context_token_s,
            costs.prefill_step_s,
            costs.prefill_token_s,
            costs.prefill_pair_s,
        ]
    )


def _work(totals: StepTotals, last: StepTotals) -> Floats:
    """What was done between two totals.  # [6]"""
    return np.array(
        [
            totals.num_steps - last.num_steps,
            totals.num_decode_tokens - last.num_decode_tokens,
            totals.num_context_tokens - last.num_context_tokens,
            totals.num_prefill_steps - last.num_prefill_steps,
            totals.num_prefill_tokens - last.num_prefill_tokens,
            totals.num_prefill_pairs - last.num_prefill_pairs,
        ],
        dtype=np.float64,
    )
