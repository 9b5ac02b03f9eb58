"""How long the tokens of a fast answer wait for more of them."""

from router.admission import Admission

_EVENTS_A_SECOND, _LONGEST_PAUSE = 5_000, 4


def event_pause_s(least_s: float, num_answers: int) -> float:
    """An event costs some 40 us of a core, whatever it holds: 5,000 a second a fifth of one. Four
    times the least, 50 events a second with the default, is where it would show."""
    return max(least_s, min(num_answers / _EVENTS_A_SECOND, _LONGEST_PAUSE * least_s))


def pause_among(admission: Admission, least_s: float) -> float:
    """The same, for the answers that are under way."""
    return event_pause_s(least_s, admission.num_under_way)
