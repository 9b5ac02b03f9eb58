"""Waiting times of many servers: M/G/c by Erlang's C and its tail (Whitt 1993, eq. 2.24)."""

import math
from statistics import NormalDist

_MANY = 100  # servers, from which Erlang's C is its own limit (Halfin and Whitt 1981, theorem 1)
_NORMAL = NormalDist()


def wait_probability(servers: float, load: float) -> float:
    """Erlang's C: the share of arrivals that find every server busy; 1 for load >= servers.

    load: arrivals per second times mean service seconds. A count of servers between two integers,
    as unequal servers make it, is interpolated.
    """
    if load <= 0:
        return 0.0
    if servers <= load or servers < 1:
        return 1.0
    low = math.floor(servers)
    share = servers - low
    at_low = _erlang_c(low, load)
    return at_low if not share else at_low + share * (_erlang_c(low + 1, load) - at_low)


def late_probability(
    servers: float, load: float, service_s: float, service_cv2: float, slack_s: float
) -> float:
    """The share of arrivals that wait longer than slack_s: exact for M/M/c, else approximate.

    service_cv2: the squared coefficient of variation of service times. A saturated queue grows
    without end: 1.
    """
    waits = wait_probability(servers, load)
    if waits >= 1 or slack_s <= 0 or service_s <= 0:
        return waits
    rate = 2 * (servers - load) / (service_s * (1 + service_cv2))
    return waits * math.exp(-rate * slack_s)


def max_load(
    servers: float, service_s: float, service_cv2: float, slack_s: float, late_share: float
) -> float:
    """The load that so many servers carry with at most late_share beyond slack_s.

    slack_s counts in units of this service time: both stay as they are while arrivals grow.
    """
    low, high = 0.0, servers
    for _ in range(30):
        middle = (low + high) / 2
        if late_probability(servers, middle, service_s, service_cv2, slack_s) <= late_share:
            low = middle
        else:
            high = middle
    return low


def _erlang_c(servers: int, load: float) -> float:
    if servers <= load:
        return 1.0
    if servers > _MANY:
        spare = (servers - load) / math.sqrt(load)
        return 1 / (1 + spare * _NORMAL.cdf(spare) / _NORMAL.pdf(spare)) if spare < 30 else 0.0
    inverse_b = 1.0  # of Erlang's B, by its recursion in the number of servers
    for number in range(1, servers + 1):
        inverse_b = 1 + inverse_b * number / load
        if inverse_b > 1e18:
            return 0.0
    blocked = 1 / inverse_b
    return blocked / (1 - load / servers * (1 - blocked))
