"""`baton unpin`: the pool sizes are the planner's again."""

from baton.operator_client import ReasonFlag, UrlFlag, act


def command(reason: ReasonFlag = "", url: UrlFlag = "") -> None:
    """Give the pool sizes back to the planner."""
    act("unpin", url, reason=reason)
