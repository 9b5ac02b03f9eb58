"""`baton resume`: ends a pause of the planner."""

from baton.operator_client import ReasonFlag, UrlFlag, act


def command(reason: ReasonFlag = "", url: UrlFlag = "") -> None:
    """End a pause of the planner."""
    act("resume", url, reason=reason)
