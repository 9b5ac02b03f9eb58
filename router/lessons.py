"""What a request's course teaches the forecasts of those after it."""

from router.attempt import Attempt
from router.course import Course
from router.hedges import Hedges

_LEAST_GAPS = 16  # of an answer that tells how fast its worker is


def first_token_came(attempt: Attempt, course: Course, hedges: Hedges) -> None:
    """What this first token took beside queue and prefill is expected of the next one."""
    if course.runs_as_placed:
        _took(attempt, hedges, course.first_s - course.arrived_s - attempt.placed_s)


def was_beaten(attempt: Attempt, course: Course, hedges: Hedges, now_s: float) -> None:
    """Its first token would have taken longer than this."""
    if course.runs_as_placed:
        _took(attempt, hedges, now_s - course.arrived_s - attempt.placed_s)


def learn_pace(attempt: Attempt, course: Course, now_s: float) -> None:
    """How far this answer's tokens were from their forecast is expected of the next one's."""
    placement, num_gaps = attempt.placement, attempt.stitcher.num_sent - 1
    is_own = course.runs_as_placed and not attempt.num_moves
    if placement.ranking and is_own and num_gaps >= _LEAST_GAPS:
        pair, exposed_s = placement.ranking[0], attempt.times.exposed_s
        taken_s = (now_s - course.first_s - exposed_s) / num_gaps
        attempt.legs.decode.decoded(pair.forecast.tpot_s - pair.spread_s, taken_s)


def _took(attempt: Attempt, hedges: Hedges, taken_s: float) -> None:
    if attempt.placement.ranking:
        forecast = attempt.placement.ranking[0].forecast
        hedges.first_came(forecast, taken_s)
        attempt.legs.starter.answered(forecast.queue_s + forecast.prefill_s, taken_s)
