"""Leases under any order of calls, against a plain model."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kv_transfer.leases import LeaseTable

LEASE_S = 30.0
NAMES = [bytes([at]) for at in range(5)]


class Leases(RuleBasedStateMachine):
    """The model: per live id its deadline, pins, whether attached and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable(LEASE_S)
        self.now_s = 0.0
        self.model: dict[bytes, list] = {}  # [deadline_s, num_pins, is_attached, has_ended]
        self.num_granted = 0
        self.num_freed = 0

    @rule(name=st.sampled_from(NAMES))
    def grant(self, name):
        if name not in self.model:
            self.table.grant(name, self.now_s)
            self.model[name] = [self.now_s + LEASE_S, 0, False, False]
            self.num_granted += 1

    @rule(name=st.sampled_from(NAMES))
    def attach(self, name):
        entry = self.model.get(name)
        may = entry is not None and not entry[2] and not entry[3]
        assert self.table.attach(name, self.now_s) == may
        if may:
            entry[2], entry[0] = True, self.now_s + LEASE_S

    @rule(name=st.sampled_from(NAMES))
    def renew(self, name):
        self.table.renew(name, self.now_s)
        if name in self.model and not self.model[name][3]:
            self.model[name][0] = self.now_s + LEASE_S

    @rule(name=st.sampled_from(NAMES))
    def pin(self, name):
        may = name in self.model and not self.model[name][3]
        assert self.table.pin(name) == may
        if may:
            self.model[name][1] += 1

    @precondition(lambda self: any(entry[1] for entry in self.model.values()))
    @rule(data=st.data())
    def unpin(self, data):
        name = data.draw(st.sampled_from([n for n, entry in self.model.items() if entry[1]]))
        self.model[name][1] -= 1
        self._is_freed(name, self.table.unpin(name))

    @rule(name=st.sampled_from(NAMES))
    def end(self, name):
        if name not in self.model:
            assert not self.table.end(name)
            return
        self.model[name][3] = True
        self._is_freed(name, self.table.end(name))

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds):
        self.now_s += seconds
        late = [n for n, entry in self.model.items() if entry[0] <= self.now_s and not entry[1]]
        assert sorted(self.table.expire(self.now_s)) == sorted(late)
        for name in late:
            self._is_freed(name, True, expired=True)

    def _is_freed(self, name, freed, expired=False):
        entry = self.model[name]
        assert freed == (expired or (entry[3] and entry[1] == 0))
        if freed:
            del self.model[name]
            self.num_freed += 1

    @invariant()
    def books_agree(self):
        self.table.check_integrity()
        assert len(self.table) == len(self.model) == self.num_granted - self.num_freed
        for name in NAMES:
            entry = self.model.get(name)
            assert self.table.is_valid(name) == (entry is not None and not entry[3])
        want = min((entry[0] for entry in self.model.values()), default=None)
        assert self.table.next_deadline_s() == want


TestLeases = Leases.TestCase


def test_a_pinned_lease_outlives_its_deadline_until_the_pin_is_gone():
    table = LeaseTable(LEASE_S)
    table.grant(b"a", 0.0)
    assert table.pin(b"a")
    assert table.expire(100.0) == []
    assert not table.unpin(b"a")
    assert table.expire(100.0) == [b"a"]
    assert not table.end(b"a")


def test_an_unpin_without_a_pin_is_our_bug():
    table = LeaseTable(LEASE_S)
    table.grant(b"a", 0.0)
    with pytest.raises(AssertionError):
        table.unpin(b"a")
