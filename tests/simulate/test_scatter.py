"""Steps scatter as their profile says: in the mean, in every quantile, and in what follows what."""

from dataclasses import replace
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cluster import make_profile, make_spec, make_workload

from profiles.catalog import ProfileError, dump, load_profile
from profiles.scatter import Scatter, ScatterError, StepScatter
from simulate.run import simulate
from simulate.step_log import StepLog
from simulate.stretch import UnevenStretch

STEP_S = 0.01


def table(factors):
    mean = sum(factors) / len(factors)
    return tuple(sorted(factor / mean for factor in factors))


TABLES = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=20).map(table)
SCATTERS = st.builds(Scatter, TABLES, TABLES, st.floats(0.0, 0.95), st.floats(0.001, 0.2))
SOME = Scatter(table([0.8, 0.9, 1.0, 1.3]), table([0.9, 1.0, 1.1]), kept=0.8, lasts_s=0.1)


def draw(scatter, count, seed, is_prefill=False):
    steps = StepScatter(scatter, Random(seed))
    drawn = []
    for number in range(count):
        steps.forget_before(STEP_S * number)
        drawn.append(steps.factor(STEP_S * number, is_prefill))
    return np.array(drawn)


@settings(max_examples=25)
@given(SCATTERS, st.booleans(), st.integers(0, 1000))
def test_factors_have_the_mean_and_the_quantiles_of_their_table(scatter, is_prefill, seed):
    factors = draw(scatter, 4000, seed, is_prefill)
    expected = scatter.prefill if is_prefill else scatter.decode
    # As many steps follow one another alike as a level lasts, so that the mean of n says less.
    alike = 1 + scatter.kept**2 * 2 * scatter.lasts_s / STEP_S
    allowed = 5 * (alike / len(factors)) ** 0.5
    assert abs(factors.mean() - 1) <= allowed * max(np.std(expected), 1e-9)
    for share in (0.1, 0.5, 0.9):
        edge = expected[int(share * len(expected))]
        below, up_to = np.mean(factors < edge), np.mean(factors <= edge)
        assert below - allowed <= share <= up_to + allowed


def test_factors_correlate_as_far_as_a_level_lasts():
    scatter = Scatter(tuple(np.linspace(0.5, 1.5, 101)), (), kept=0.8, lasts_s=0.1)
    ranks = draw(scatter, 60_000, seed=3) - 1.0
    for lag in (1, 5, 10, 30):
        found = np.mean(ranks[lag:] * ranks[:-lag]) / np.mean(ranks**2)
        assert found == pytest.approx(0.64 * np.exp(-lag * STEP_S / 0.1), abs=0.03)


def test_a_place_that_is_asked_for_again_is_at_the_same_level():
    steps = StepScatter(Scatter(table(range(1, 50)), kept=1.0, lasts_s=0.03), Random(5))
    first = [steps.factor(STEP_S * number, False) for number in range(40)]
    steps.forget_before(0.1)
    assert [steps.factor(STEP_S * number, False) for number in range(10, 40)] == first[10:]
    assert len(set(first)) > 5


@given(st.lists(st.floats(0.001, 0.1), min_size=1, max_size=40), st.data())
def test_an_uneven_run_is_cut_where_its_steps_end(steps_s, data):
    ends_s = (2.0 + np.cumsum(steps_s)).tolist()
    run = UnevenStretch(2.0, STEP_S, 0.0, ends_s, len(ends_s), [])
    at_s = data.draw(st.floats(2.0, ends_s[-1]))
    assert run.num_done(at_s) == sum(end_s <= at_s for end_s in ends_s[:-1])
    done = run.num_done(at_s)
    assert 0 <= run.num_layers_done(at_s, done, 8) < 8
    taken_s = run.taken_s(len(ends_s))
    rest = run.split(done)
    assert run.taken_s(done) + rest.taken_s(rest.count) == pytest.approx(taken_s)
    log = StepLog()
    run.record(log)
    rest.record(log)
    np.testing.assert_allclose(log.ends_s(1, len(ends_s)), ends_s)
    rest.delay(0.5)
    assert (rest.count, rest.end_s(1)) == (1, pytest.approx(ends_s[done] + 0.5))


REQUESTS = [(0.003777 * number**1.3, 40 + 97 * number % 600, 1 + 7 * number % 60)
            for number in range(60)]  # fmt: skip


def outcome_of(scatter, seed=0):
    profile = make_profile(kv_tokens=1 << 14, scatter=scatter)
    outcome = simulate(make_spec("1:2", profile=profile, seed=seed), make_workload(REQUESTS))
    return msgspec.json.encode(outcome.records), outcome


def test_no_scatter_and_factors_of_one_give_the_results_of_exact_steps():
    exact, outcome = outcome_of(Scatter())
    assert outcome_of(Scatter(kept=0.5, lasts_s=1.0))[0] == exact
    ones, other = outcome_of(Scatter((1.0,), (1.0, 1.0), kept=0.5, lasts_s=0.1))
    assert ones != b"" and len(other.records) == len(outcome.records)
    for one, another in zip(outcome.records, other.records, strict=True):
        assert (another.first_s, another.end_s) == pytest.approx((one.first_s, one.end_s))


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not():
    assert outcome_of(SOME, seed=4)[0] == outcome_of(SOME, seed=4)[0]
    assert outcome_of(SOME, seed=4)[0] != outcome_of(SOME, seed=5)[0]


def test_runs_of_scattered_steps_stay_one_event():
    profile = make_profile(scatter=SOME)
    one_answer = make_workload([(0.0, 100, 2000)])
    outcome = simulate(make_spec("0:1", profile=profile), one_answer)
    exact = simulate(make_spec("0:1"), one_answer)
    assert outcome.num_events - exact.num_events < 2000 / 32 + exact.num_events
    assert outcome.end_s == pytest.approx(exact.end_s, rel=0.1)


def test_a_file_keeps_its_scatter(tmp_path):
    path = tmp_path / "toy.toml"
    profile = make_profile(scatter=SOME)
    path.write_text(dump(profile))
    assert load_profile(str(path)) == replace(profile, name="toy")
    path.write_text(dump(profile).replace("scatter.kept = 0.8", "scatter.kept = 1.8"))
    with pytest.raises(ProfileError, match=r"toy\.toml.*a share is 0 to 1"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"decode": (1.2, 0.8)}, "decode: .* rising order"),
        ({"prefill": (-1.0, 3.0)}, "prefill: .* not below 0"),
        ({"decode": (1.0, 1.5)}, "the mean is 1.25"),
        ({"kept": -0.1}, "kept is -0.1"),
        ({"kept": 0.5}, "lasts_s is 0, more than 0"),
    ],
)
def test_numbers_that_make_no_scatter_are_named(values, reason):
    with pytest.raises(ScatterError, match=reason):
        Scatter(**values)
