"""The step predictor against workers whose true costs are known."""

import math
from random import Random

import numpy as np
import pytest

from router.predictor import StepCosts, StepPredictor
from wire.messages import StepTotals

TRUE = StepCosts(5e-3, 8e-6, 34e-9, 5e-4, 25e-6, 3e-10)


def totals_after(totals, *, steps, seqs, context, chunk=0, start=0, costs=TRUE, noise=1.0):
    """One sample: equal decode steps, one of which carries a chunk."""
    pairs = (start + chunk) ** 2 - start**2
    taken_s = steps * costs.itl_s(seqs, context)
    if chunk:
        taken_s += costs.prefill_step_s + costs.prefill_s(chunk, start)
    return StepTotals(
        totals.num_steps + steps,
        totals.num_prefill_steps + bool(chunk),
        totals.step_s + noise * taken_s,
        totals.num_decode_tokens + steps * seqs,
        totals.num_context_tokens + steps * context,
        totals.num_prefill_tokens + chunk,
        totals.num_prefill_pairs + pairs,
    )


def feed(predictor, count, *, rng, prefills=True, decodes=True, costs=TRUE, noise=0.0, at_s=0.0):
    totals = StepTotals()
    predictor.observe(totals, at_s)
    for i in range(count):
        seqs = rng.randint(1, 60) if decodes else 0
        totals = totals_after(
            totals,
            steps=rng.randint(1, 40) if decodes else 1,
            seqs=seqs,
            context=seqs * rng.randint(200, 6000),
            chunk=rng.choice([0, 300, 4000]) if prefills and decodes else 4000 * prefills,
            start=rng.choice([0, 2000]),
            costs=costs,
            noise=1 + noise * (2 * rng.random() - 1),
        )
        predictor.observe(totals, at_s + 0.25 * (i + 1))


def test_without_samples_or_seed_it_is_cold():
    assert StepPredictor().costs() is None


def test_a_seeded_predictor_is_warm_and_gives_the_seed():
    costs = StepPredictor(TRUE).costs()
    assert costs is not None
    assert costs.itl_s(10, 20_000) == pytest.approx(TRUE.itl_s(10, 20_000))
    assert costs.prefill_s(1000, 500) == pytest.approx(TRUE.prefill_s(1000, 500))


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_true_costs_of_an_unknown_worker(seed):
    predictor = StepPredictor()
    feed(predictor, 200, rng=Random(seed), noise=0.05)
    costs = predictor.costs()
    assert costs is not None
    assert costs.itl_s(30, 90_000) == pytest.approx(TRUE.itl_s(30, 90_000), rel=0.1)
    assert costs.prefill_s(3000, 1000) == pytest.approx(TRUE.prefill_s(3000, 1000), rel=0.1)
    assert predictor.error < 0.1


def test_a_wrong_seed_is_corrected():
    wrong = StepCosts(*(3 * value for value in (5e-3, 8e-6, 34e-9, 5e-4, 25e-6, 3e-10)))
    predictor = StepPredictor(wrong)
    feed(predictor, 100, rng=Random(1))
    costs = predictor.costs()
    assert costs is not None
    assert costs.itl_s(30, 90_000) == pytest.approx(TRUE.itl_s(30, 90_000), rel=0.05)


def test_it_follows_a_worker_that_becomes_slower():
    predictor = StepPredictor(TRUE)
    feed(predictor, 50, rng=Random(2))
    slower = StepCosts(8e-3, 8e-6, 34e-9, 5e-4, 50e-6, 3e-10)
    feed(predictor, 400, rng=Random(3), costs=slower, at_s=100.0)
    costs = predictor.costs()
    assert costs is not None
    assert costs.itl_s(20, 40_000) == pytest.approx(slower.itl_s(20, 40_000), rel=0.1)
    assert costs.prefill_s(4000) == pytest.approx(slower.prefill_s(4000), rel=0.1)


def test_what_a_worker_does_not_run_is_kept():
    predictor = StepPredictor(TRUE)
    feed(predictor, 500, rng=Random(4), prefills=False)
    costs = predictor.costs()
    assert costs is not None
    assert costs.prefill_s(4000) == pytest.approx(TRUE.prefill_s(4000), rel=0.01)


def test_a_phase_that_a_worker_has_not_run_is_predicted_from_its_pool():
    pool = StepPredictor()
    prefill, decode = StepPredictor(pool=pool), StepPredictor(pool=pool)
    feed(decode, 40, rng=Random(5), prefills=False)
    assert decode.costs() is None
    feed(prefill, 40, rng=Random(6), decodes=False)
    assert decode.costs() is None, "it has not reported since"
    feed(decode, 2, rng=Random(5), prefills=False)
    for predictor in (prefill, decode):
        costs = predictor.costs()
        assert costs is not None
        assert costs.itl_s(30, 90_000) == pytest.approx(TRUE.itl_s(30, 90_000), rel=0.15)
        assert costs.prefill_s(4000) == pytest.approx(TRUE.prefill_s(4000), rel=0.15)


def test_one_slow_start_does_not_spoil_the_fit():
    predictor = StepPredictor()
    first = totals_after(StepTotals(), steps=1, seqs=1, context=100, chunk=100, noise=2000.0)
    predictor.observe(StepTotals(), 0.0)
    predictor.observe(first, 10.0)
    feed(predictor, 100, rng=Random(7), at_s=20.0)
    costs = predictor.costs()
    assert costs is not None
    assert costs.itl_s(30, 90_000) == pytest.approx(TRUE.itl_s(30, 90_000), rel=0.1)


def test_noise_shows_as_margin_and_error():
    calm, noisy = StepPredictor(TRUE), StepPredictor(TRUE)
    feed(calm, 100, rng=Random(8))
    feed(noisy, 100, rng=Random(8), noise=0.4)
    assert calm.margin == pytest.approx(1.0, abs=0.01)
    assert 1.05 < noisy.margin <= 2.0
    assert noisy.error > calm.error
    assert math.isnan(StepPredictor().error)


def test_the_share_of_prefill_rises_with_it_and_fades():
    predictor = StepPredictor(TRUE)
    feed(predictor, 40, rng=Random(9), decodes=False)  # 4,000 tokens take 0.1 s of each 0.25 s
    assert predictor.prefill_share == pytest.approx(0.42, abs=0.05)
    predictor.observe(predictor._totals, 60.0)
    assert predictor.prefill_share < 0.01


def test_totals_of_a_new_process_are_no_sample():
    predictor = StepPredictor(TRUE)
    feed(predictor, 10, rng=Random(10))
    before = predictor.coefficients().copy()
    predictor.observe(StepTotals(num_steps=1, step_s=99.0), 100.0)
    assert (predictor.coefficients() == before).all()


@pytest.mark.parametrize("seed", range(4))
def test_steps_that_vary_do_not_carry_the_fit_away_where_sequences_and_context_rise_together(seed):
    rng, predictor = Random(seed), StepPredictor()
    for number in range(400):
        seqs, steps = rng.randint(1, 6), rng.randint(25, 45)
        context = seqs * rng.uniform(2500, 4500)
        taken_s = steps * TRUE.itl_s(seqs, context) * rng.uniform(0.85, 1.15)
        taken_s += 0.1 * (rng.random() < 0.05)  # somebody else had the machine
        work = np.array([steps, steps * seqs, steps * context, 0, 0, 0])
        predictor.learn(work, taken_s)
        if number > 40:
            step_s, sequence_s, token_s = predictor.coefficients()[:3]
            assert min(step_s, sequence_s, token_s) >= 0
            for count in (1, 4, 8):
                found_s = step_s + (sequence_s + 3500 * token_s) * count
                assert found_s == pytest.approx(TRUE.itl_s(count, 3500 * count), rel=0.25)
