"""The prefix map against a slow and obvious model, and its bound."""

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
PATH_OF = {number: path for path, number in HASHES.items()}
chains = st.sampled_from([tuple(HASHES[p] for p in dict.fromkeys(chain)) for chain in CHAINS])
blocks = st.lists(st.sampled_from(sorted(HASHES.values())), max_size=5, unique=True)
workers = st.sampled_from(WORKERS)
Tiers = dict[int, str]


def closed(tiers: Tiers) -> Tiers:
    """As a worker has it: what is below a block of the host is not on the device."""
    on_host = [PATH_OF[block] for block, tier in tiers.items() if tier == "host"]
    is_below = {b: any(PATH_OF[b].startswith(path) for path in on_host) for b in tiers}
    return {block: "host" if is_below[block] else tier for block, tier in tiers.items()}


def of_tier(tiers: Tiers, tier: str) -> tuple[int, ...]:
    return tuple(sorted(block for block, found in tiers.items() if found == tier))


class Model:
    """tiers[worker][block] = device or host, as confirmed; guesses[worker][block] = expiry."""

    def __init__(self):
        self.tiers = {}
        self.guesses = {}
        self.sequence = {}

    def become(self, worker, tiers):
        """What left a tier is not guessed any more, either."""
        before = self.tiers[worker]
        for block, tier in before.items():
            if tiers.get(block) != tier and (tier == "device" or block not in tiers):
                self.guesses[worker].pop(block, None)
        self.tiers[worker] = tiers

    def match(self, hashes, counts):
        found = {}
        for worker in self.tiers:
            depth = 0
            while depth < len(hashes) and counts(worker, hashes[depth]):
                depth += 1
            if depth:
                found[worker] = depth
        return found

    def is_on_device(self, worker, block):
        return self.tiers[worker].get(block) == "device"


class PrefixMapMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.map, self.model, self.now = PrefixMap(1000), Model(), 0.0

    @rule(worker=workers)
    def add_or_remove(self, worker):
        if worker in self.model.tiers:
            self.map.remove_worker(worker)
            del self.model.tiers[worker]
        else:
            self.map.add_worker(worker)
            self.model.tiers[worker], self.model.guesses[worker] = {}, {}
            self.model.sequence[worker] = None

    @precondition(lambda self: self.model.tiers)
    @rule(data=st.data(), stored=blocks, on_host=blocks)
    def snapshot(self, data, stored, on_host):
        worker = data.draw(st.sampled_from(sorted(self.model.tiers)))
        tiers = closed(dict.fromkeys(stored, "device") | dict.fromkeys(on_host, "host"))
        told = BlockSnapshot(10, of_tier(tiers, "device"), of_tier(tiers, "host"))
        self.map.load_snapshot(worker, told)
        for block in (b for b, tier in self.model.tiers[worker].items() if tiers.get(b) != tier):
            self.model.guesses[worker].pop(block, None)
        self.model.become(worker, tiers)
        self.model.sequence[worker] = 10

    @precondition(lambda self: self.model.tiers)
    @rule(
        data=st.data(),
        stored=blocks,
        removed=blocks,
        on_host=blocks,
        step=st.sampled_from([0, 1, 1, 1, 2]),
    )
    def event(self, data, stored, removed, on_host, step):
        worker = data.draw(st.sampled_from(sorted(self.model.tiers)))
        before = self.model.tiers[worker]
        tiers = {block: tier for block, tier in before.items() if block not in removed}
        tiers = closed(tiers | dict.fromkeys(stored, "device") | dict.fromkeys(on_host, "host"))
        gone = [block for block, tier in before.items() if tiers.get(block) != tier]
        known = self.model.sequence[worker]
        number = (known or 0) + step
        told = BlockEvent(
            number,
            stored=tuple(b for b in of_tier(tiers, "device") if before.get(b) != "device"),
            removed=(*(b for b in gone if before[b] == "device"), *set(removed) - before.keys()),
            host_stored=tuple(b for b in of_tier(tiers, "host") if before.get(b) != "host"),
            host_removed=tuple(b for b in gone if before[b] == "host" and b not in tiers),
        )
        applied = self.map.apply(worker, told)
        assert applied == (known is None or step < 2)
        if known is not None and step == 2:
            self.model.sequence[worker] = None
        if known is not None and step == 1:
            self.model.sequence[worker] = number
            for block in set(removed) - before.keys():
                self.model.guesses[worker].pop(block, None)
            self.model.become(worker, tiers)

    @precondition(lambda self: self.model.tiers)
    @rule(data=st.data(), chain=chains)
    def speculate(self, data, chain):
        worker = data.draw(st.sampled_from(sorted(self.model.tiers)))
        self.map.speculate([worker], chain, self.now + 2.0)
        self.model.guesses[worker].update(dict.fromkeys(chain, self.now + 2.0))

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.map.expire(self.now)
        for worker, guesses in self.model.guesses.items():
            self.model.guesses[worker] = {b: t for b, t in guesses.items() if t > self.now}

    @rule(chain=chains)
    def match(self, chain):
        found, model = self.map.match(chain), self.model
        confirmed = model.match(chain, model.is_on_device)
        assert found.confirmed == confirmed
        reach = model.match(chain, lambda worker, block: block in model.tiers[worker])
        assert found.host == {w: d for w, d in reach.items() if d > confirmed.get(w, 0)}
        assert found.held == model.match(
            chain,
            lambda worker, block: (
                model.is_on_device(worker, block) or block in model.guesses[worker]
            ),
        )

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


def test_a_block_that_moves_to_the_host_and_back_is_told_apart_from_the_device_s():
    prefixes = PrefixMap(10)
    for name in ("a", "b"):
        prefixes.add_worker(name)
        prefixes.load_snapshot(name, BlockSnapshot(0, (1, 2, 3, 4)))
    prefixes.apply("a", BlockEvent(1, removed=(4, 3), host_stored=(3, 4)))
    found = prefixes.match((1, 2, 3, 4))
    assert (found.confirmed, found.host) == ({"a": 2, "b": 4}, {"a": 4})
    prefixes.apply("a", BlockEvent(2, stored=(3,), host_removed=(4,)))
    found = prefixes.match((1, 2, 3, 4))
    assert (found.confirmed, found.host) == ({"a": 3, "b": 4}, {})
    prefixes.apply("a", BlockEvent(3, removed=(1, 2, 3), host_stored=(1, 2, 3)))
    found = prefixes.match((1, 2, 3, 4))
    assert (found.confirmed, found.host) == ({"b": 4}, {"a": 3})
    prefixes.remove_worker("a")
    assert prefixes.match((1, 2, 3, 4)).host == {}
    prefixes.check_integrity()


def test_near_the_bound_the_host_tier_is_forgotten_first():
    prefixes = PrefixMap(4)
    prefixes.add_worker("a")
    prefixes.load_snapshot("a", BlockSnapshot(0, (1, 2), (11, 12)))
    prefixes.apply("a", BlockEvent(1, stored=(3,)))
    assert prefixes.match((1, 2, 3)).confirmed == {"a": 3}
    assert prefixes.match((11, 12)).host == {"a": 1}
    assert prefixes.num_blocks("a") == 4
    prefixes.check_integrity()
