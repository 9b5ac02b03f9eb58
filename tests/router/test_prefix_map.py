"""The prefix map against a slow and obvious model, and its bound."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.prefix_map import PrefixMap
from wire.messages import BlockEvent, BlockSnapshot

WORKERS = ("a", "b", "c")
# A tree of blocks: a block's hash is its path, so chains share prefixes as real prompts do.
PATHS = ("0000", "0001", "0010", "0011", "0110", "0111", "1")
CHAINS = [tuple(path[: i + 1] for i in range(4)) for path in PATHS]
HASHES = {path: number for number, path in enumerate(sorted({p for c in CHAINS for p in c}))}
chains = st.sampled_from([tuple(HASHES[p] for p in dict.fromkeys(chain)) for chain in CHAINS])
blocks = st.lists(st.sampled_from(sorted(HASHES.values())), max_size=5, unique=True)
workers = st.sampled_from(WORKERS)


class Model:
    """held[worker][block] = expiry; infinity when confirmed."""

    def __init__(self):
        self.held = {}
        self.sequence = {}

    def match(self, hashes, sure):
        found = {}
        for worker, held in self.held.items():
            depth = 0
            for block in hashes:
                if block not in held or (sure and held[block] != math.inf):
                    break
                depth += 1
            if depth:
                found[worker] = depth
        return found


class PrefixMapMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.map, self.model, self.now = PrefixMap(1000), Model(), 0.0

    @rule(worker=workers)
    def add_or_remove(self, worker):
        if worker in self.model.held:
            self.map.remove_worker(worker)
            del self.model.held[worker]
        else:
            self.map.add_worker(worker)
            self.model.held[worker], self.model.sequence[worker] = {}, None

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), stored=blocks)
    def snapshot(self, data, stored):
        worker = data.draw(st.sampled_from(sorted(self.model.held)))
        self.map.load_snapshot(worker, BlockSnapshot(10, tuple(stored)))
        kept = {b: t for b, t in self.model.held[worker].items() if t != math.inf}
        self.model.held[worker] = kept | dict.fromkeys(stored, math.inf)
        self.model.sequence[worker] = 10

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), stored=blocks, removed=blocks, step=st.sampled_from([0, 1, 1, 1, 2]))
    def event(self, data, stored, removed, step):
        worker = data.draw(st.sampled_from(sorted(self.model.held)))
        known = self.model.sequence[worker]
        number = (known or 0) + step
        applied = self.map.apply(worker, BlockEvent(number, tuple(stored), tuple(removed)))
        assert applied == (known is None or step < 2)
        if known is not None and step == 2:
            self.model.sequence[worker] = None
        if known is not None and step == 1:
            self.model.sequence[worker] = number
            for block in removed:
                self.model.held[worker].pop(block, None)
            self.model.held[worker].update(dict.fromkeys(stored, math.inf))

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), chain=chains)
    def speculate(self, data, chain):
        worker = data.draw(st.sampled_from(sorted(self.model.held)))
        self.map.speculate([worker], chain, self.now + 2.0)
        held = self.model.held[worker]
        held.update({b: self.now + 2.0 for b in chain if held.get(b) != math.inf})

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.map.expire(self.now)
        for worker, held in self.model.held.items():
            self.model.held[worker] = {b: t for b, t in held.items() if t > self.now}

    @rule(chain=chains)
    def match(self, chain):
        found = self.map.match(chain)
        assert found.held == self.model.match(chain, sure=False)
        assert found.confirmed == self.model.match(chain, sure=True)

    @invariant()
    def is_sound(self):
        self.map.check_integrity()


TestPrefixMapAgainstModel = PrefixMapMachine.TestCase
TestPrefixMapAgainstModel.settings = settings(max_examples=60, stateful_step_count=40)


def test_the_bound_drops_the_least_recently_used_leaf_first():
    prefixes = PrefixMap(4)
    prefixes.add_worker("a")
    prefixes.load_snapshot("a", BlockSnapshot(0, (1, 2, 3, 4)))
    prefixes.apply("a", BlockEvent(1, stored=(5,)))
    assert prefixes.match((1, 2, 3, 4)).held == {"a": 3}
    prefixes.speculate(["a"], (1, 2), 9.0)
    prefixes.apply("a", BlockEvent(2, stored=(6, 7)))
    assert prefixes.match((1, 2)).held == {"a": 2}
    assert prefixes.num_blocks("a") == 4
    prefixes.check_integrity()


def test_events_before_the_first_snapshot_mean_nothing():
    prefixes = PrefixMap(10)
    prefixes.add_worker("a")
    assert prefixes.apply("a", BlockEvent(7, stored=(1,)))
    assert prefixes.match((1,)).held == {}


def test_a_worker_that_comes_back_starts_empty():
    prefixes = PrefixMap(10)
    prefixes.add_worker("a")
    prefixes.load_snapshot("a", BlockSnapshot(0, (1, 2)))
    prefixes.speculate(["a"], (1, 2, 3), 2.0)
    prefixes.remove_worker("a")
    prefixes.add_worker("a")
    prefixes.expire(3.0)
    assert prefixes.match((1, 2)).held == {}
    prefixes.check_integrity()


@given(st.integers(1, 30), st.integers(0, 30))
def test_matches_reach_as_deep_as_each_workers_prefix(num_held, num_asked):
    prefixes = PrefixMap(100)
    for name, count in (("a", num_held), ("b", num_held // 2)):
        prefixes.add_worker(name)
        prefixes.load_snapshot(name, BlockSnapshot(0, tuple(range(count))))
    want = {"a": min(num_held, num_asked), "b": min(num_held // 2, num_asked)}
    assert prefixes.match(range(num_asked)).held == {k: v for k, v in want.items() if v}


@pytest.mark.parametrize("num_workers", [1, 70])
def test_more_workers_than_bits_of_a_word_are_told_apart(num_workers):
    prefixes = PrefixMap(10)
    for i in range(num_workers):
        prefixes.add_worker(f"w{i}")
        prefixes.load_snapshot(f"w{i}", BlockSnapshot(0, tuple(range(1 + i % 3))))
    found = prefixes.match((0, 1, 2)).confirmed
    assert found == {f"w{i}": 1 + i % 3 for i in range(num_workers)}
