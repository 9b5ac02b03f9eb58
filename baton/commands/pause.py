"""`baton pause`: the planner decides and does nothing."""

from baton.operator_client import ReasonFlag, UrlFlag, act


def command(reason: ReasonFlag = "", url: UrlFlag = "") -> None:
    """Have the planner do nothing until `baton resume`."""
    act("pause", url, reason=reason)
