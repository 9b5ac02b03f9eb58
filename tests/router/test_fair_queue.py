"""Fair shares: tenants get their weights of the work, whoever floods the queue."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.admission import Door
from router.fair_queue import FairQueue, Ticket
from router.saturation import Saturation


class Crowd:
    """Tenants that always have so many requests waiting at a door of four slots."""

    def __init__(self, weights, backlog, costs, seed=0):
        self.door, self.rng = Door(4, 200), Random(seed)
        self.weights, self.costs = weights, costs
        self.ordinal, self.now_s = 0, 0.0
        self.inside, self.work = [], dict.fromkeys(weights, 0.0)
        self.queued = dict.fromkeys(weights, 0)
        self.backlog = backlog

    def arrive(self, tenant, error=1.0):
        cost = self.rng.uniform(*self.costs[tenant])
        self.ordinal += 1
        ticket = Ticket(
            self.ordinal, 0, tenant, self.weights[tenant], cost * error, self.now_s + 2, self.now_s
        )
        offer = self.door.offer(ticket, Saturation())
        if offer.entered:
            self.inside.append((ticket, cost))
        elif not offer.refused:
            self.queued[tenant] += 1
        if offer.evicted is not None:
            self.queued[offer.evicted.tenant] -= 1

    def serve_one(self):
        ticket, cost = self.inside.pop(self.rng.randrange(len(self.inside)))
        self.now_s += cost / 1000
        self.work[ticket.tenant] += cost
        self.door.leave(ticket, cost, self.now_s)
        entered = self.door.admit(self.now_s, Saturation())
        if entered is not None:
            self.queued[entered.tenant] -= 1
            self.inside.append((entered, entered.cost))

    def run(self, num_served):
        for _ in range(num_served):
            for tenant, depth in self.backlog.items():
                while self.queued[tenant] < depth and self.door.num_queued < 200:
                    self.arrive(tenant)
            self.serve_one()
        self.door.check_integrity()


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_two_tenants_one_flooding_get_their_weights_within_5_percent(weight):
    crowd = Crowd(
        {"flood": 1.0, "quiet": weight},
        {"flood": 150, "quiet": 4},
        {"flood": (100, 3000), "quiet": (100, 3000)},
    )
    crowd.run(4000)
    assert crowd.work["quiet"] / crowd.work["flood"] == pytest.approx(weight, rel=0.05)


def test_shares_are_of_work_and_not_of_requests():
    crowd = Crowd(
        {"long": 1.0, "short": 1.0},
        {"long": 50, "short": 50},
        {"long": (8e3, 9e3), "short": (1, 200)},
    )
    crowd.run(24_000)
    assert crowd.work["short"] / crowd.work["long"] == pytest.approx(1.0, rel=0.05)


def test_a_wrong_prediction_is_made_good_when_the_request_has_ended():
    queue = FairQueue()
    for ordinal in range(4):
        queue.push(Ticket(ordinal, tenant="ab"[ordinal % 2], cost=10.0))
    first = queue.pop(0.0)
    assert first.tenant == "a"
    queue.charge(first, -10.0)  # it took nothing after all
    assert queue.pop(0.0).tenant == "a"


def test_a_tenant_that_was_idle_has_saved_nothing_up_and_owes_nothing():
    queue = FairQueue()
    for ordinal in range(100):
        queue.push(Ticket(ordinal, tenant="busy", cost=1000.0))
        queue.pop(0.0)
    for ordinal in range(100, 120):
        queue.push(Ticket(ordinal, tenant="busy", cost=1000.0))
        queue.push(Ticket(ordinal + 100, tenant="new", cost=1000.0))
    served = [queue.pop(0.0).tenant for _ in range(20)]
    assert served.count("new") == pytest.approx(10, abs=1)


def test_classes_are_strict_whatever_a_tenant_was_served():
    queue = FairQueue()
    queue.charge(Ticket(0, tenant="a"), 1e9)
    queue.push(Ticket(1, priority=1, tenant="b"))
    queue.push(Ticket(2, priority=-1, tenant="a"))
    queue.push(Ticket(3, priority=0, tenant="b"))
    assert [queue.pop(0.0).priority for _ in range(3)] == [-1, 0, 1]
    assert queue.pop(0.0) is None


TICKETS = st.lists(
    st.tuples(
        st.integers(-1, 1),
        st.sampled_from("abc"),
        st.floats(1, 100),
        st.floats(0, 10),
        st.booleans(),
    ),
    max_size=40,
)


@given(TICKETS, st.floats(0, 10))
def test_every_ticket_leaves_once_in_order_of_class(entries, now_s):
    queue, left = FairQueue(), {}
    for ordinal, (priority, tenant, cost, deadline_s, is_removed) in enumerate(entries):
        ticket = Ticket(ordinal, priority, tenant, 1.0, cost, deadline_s)
        queue.push(ticket)
        left[ordinal] = ticket
        if is_removed:
            assert queue.remove(left.pop(ordinal)) and not queue.remove(ticket)
        queue.check_integrity()
    popped = []
    while (ticket := queue.pop(now_s)) is not None:
        popped.append(ticket)
        queue.check_integrity()
    assert sorted(t.ordinal for t in popped) == sorted(left)
    assert [t.priority for t in popped] == sorted(t.priority for t in popped)
    for priority in (-1, 0, 1):
        for tenant in "abc":
            own = [t.deadline_s for t in popped if (t.priority, t.tenant) == (priority, tenant)]
            due = [at for at in own if at >= now_s]
            assert own[: len(due)] == sorted(due), "a late one went before one that can be met"
