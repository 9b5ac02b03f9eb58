"""The order in which waiting requests enter: classes, then fair shares of tenants, then deadlines.

Tenants share by virtual token counters (Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024, section 4): the one that was served the least for its weight is next, and one that comes
back from idleness begins where the least served active one stands, so that it saves nothing up.
Pure: time is an argument.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field

_MAX_IDLE_COUNTERS = 10_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request at the door. ordinal: unique, and grows. priority: lower numbers go first.

    cost: the predicted work in tokens. deadline_s: when its first token is due, on the clock.
    """

    ordinal: int
    priority: int = 0
    tenant: str = ""
    weight: float = 1.0
    cost: float = 1.0
    deadline_s: float = 0.0
    arrived_s: float = 0.0


@dataclass(slots=True)
class _Line:
    """One tenant's waiting tickets of one class. late: those whose deadline has passed."""

    weight: float
    due: list[tuple[float, int, Ticket]] = field(default_factory=list)
    late: deque[Ticket] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.due) + len(self.late)

    def pop(self, now_s: float) -> Ticket:
        """The earliest deadline that can still be met; the late ones after those."""
        while self.due and self.due[0][0] < now_s:
            self.late.append(heapq.heappop(self.due)[2])
        return heapq.heappop(self.due)[2] if self.due else self.late.popleft()

    def last(self) -> Ticket:
        """Who has the latest deadline; of the late ones the last."""
        return max(self.due)[2] if self.due else self.late[-1]

    def remove(self, ticket: Ticket) -> bool:
        entry = (ticket.deadline_s, ticket.ordinal, ticket)
        if entry in self.due:
            self.due.remove(entry)
            heapq.heapify(self.due)
            return True
        if ticket in self.late:
            self.late.remove(ticket)
            return True
        return False


class FairQueue:
    """Waiting tickets by class and tenant. A served tenant's counter rises by cost over weight."""

    def __init__(self) -> None:
        self._classes: dict[int, dict[str, _Line]] = {}
        self._served: dict[str, float] = {}
        self._floor = 0.0  # the counter of who was served last: where a newcomer begins
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def push(self, ticket: Ticket) -> None:
        lines = self._classes.setdefault(ticket.priority, {})
        line = lines.get(ticket.tenant)
        if line is None:
            if not self._waits(ticket.tenant):
                self._begin(ticket.tenant)
            line = lines[ticket.tenant] = _Line(ticket.weight)
        line.weight = ticket.weight
        heapq.heappush(line.due, (ticket.deadline_s, ticket.ordinal, ticket))
        self._len += 1

    def pop(self, now_s: float) -> Ticket | None:
        """Who enters next; its predicted cost is charged. None: nobody waits."""
        if not self._classes:
            return None
        lines = self._classes[min(self._classes)]
        tenant = min(lines, key=lambda name: (self._served[name], name))
        ticket = lines[tenant].pop(now_s)
        self._floor = max(self._floor, self._served[tenant])
        self._took(ticket)
        self.charge(ticket, ticket.cost)
        return ticket

    def charge(self, ticket: Ticket, cost: float) -> None:
        """Its tenant was given this much work; less than nothing takes some of it back."""
        served = self._served.setdefault(ticket.tenant, self._floor)
        self._served[ticket.tenant] = served + cost / ticket.weight
        if len(self._served) > _MAX_IDLE_COUNTERS:
            self._forget_idle()

    def remove(self, ticket: Ticket) -> bool:
        """It waits no longer; False: it did not."""
        line = self._classes.get(ticket.priority, {}).get(ticket.tenant)
        if line is None or not line.remove(ticket):
            return False
        self._took(ticket)
        return True

    def victim_for(self, ticket: Ticket) -> Ticket | None:
        """Who leaves a full queue for a newcomer; None: the newcomer does.

        The last of the lowest class, if that is lower; else, of its own class, the last of the
        tenant that has the longest queue for its weight, if that is longer than the newcomer's.
        """
        if not self._classes:
            return None
        lowest = max(self._classes)
        lines = self._classes[lowest]
        longest = max(lines, key=lambda name: (len(lines[name]) / lines[name].weight, name))
        if lowest > ticket.priority:
            return lines[longest].last()
        if lowest < ticket.priority:
            return None
        own = lines.get(ticket.tenant)
        own_length = (1 + (len(own) if own else 0)) / ticket.weight
        line = lines[longest]
        return line.last() if len(line) / line.weight > own_length else None

    def expired(self, before_s: float) -> list[Ticket]:
        """Who came before that time and still waits; each is removed."""
        found = [
            ticket
            for lines in self._classes.values()
            for line in lines.values()
            for ticket in (*(entry[2] for entry in line.due), *line.late)
            if ticket.arrived_s < before_s
        ]
        for ticket in found:
            self.remove(ticket)
        return found

    def check_integrity(self) -> None:
        """Raises AssertionError when the count is wrong or an empty line is kept."""
        lines = [line for by_tenant in self._classes.values() for line in by_tenant.values()]
        assert all(len(line) > 0 for line in lines), "an empty line is kept"
        assert sum(len(line) for line in lines) == self._len, "the queue's length is wrong"

    def _took(self, ticket: Ticket) -> None:
        self._len -= 1
        lines = self._classes[ticket.priority]
        if not len(lines[ticket.tenant]):
            del lines[ticket.tenant]
        if not lines:
            del self._classes[ticket.priority]

    def _waits(self, tenant: str) -> bool:
        return any(tenant in lines for lines in self._classes.values())

    def _begin(self, tenant: str) -> None:
        waiting = [self._served[name] for lines in self._classes.values() for name in lines]
        least = min(waiting, default=self._floor)
        self._served[tenant] = max(self._served.get(tenant, 0.0), least)

    def _forget_idle(self) -> None:
        """An idle tenant that is behind begins at the floor anyway."""
        for name, served in list(self._served.items()):
            if served <= self._floor and not self._waits(name):
                del self._served[name]
