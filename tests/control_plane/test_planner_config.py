"""Settings that cannot be used are refused by name, with their limit."""

import pytest

from control_plane.planner.config import (
    Hardware,
    PlannerConfig,
    PlannerConfigError,
    Schedule,
)
from control_plane.planner.types import Objectives


@pytest.mark.parametrize(
    ("values", "field", "limit"),
    [
        ({"min_prefill": 5, "max_prefill": 4}, "min_prefill", "5 is more than max_prefill, 4"),
        ({"min_decode": 9, "max_decode": 2}, "min_decode", "9 is more than max_decode, 2"),
        ({"max_gpus": 1}, "max_gpus", "less than the 2 of the minimums"),
        (
            {"usd_per_hour": 5.0, "hardware": (Hardware("h200", 3.8),)},
            "usd_per_hour",
            "less than the 7.6 of the minimums",
        ),
        ({"dead_band": 0.9}, "dead_band", "0.9 is more than 0.5"),
        ({"tick_s": 0.0}, "tick_s", "0.0 is less than 0.1"),
        ({"confirm_ticks": 0}, "confirm_ticks", "0 is less than 1"),
        ({"flip_cooldown_s": float("nan")}, "flip_cooldown_s", "nan"),
        ({"mode": "sideways"}, "mode", "not one of auto, aggregated, hybrid, disaggregated"),
        ({"hardware": ()}, "hardware", "at least one kind"),
        ({"hardware": (Hardware("a"), Hardware("a"))}, "hardware", "each name once"),
        ({"schedules": (Schedule("s", 8, 25),)}, "schedules.s", "hour 25 is not within 0 .. 24"),
        ({"schedules": (Schedule("s", 8, 9, days="moon"),)}, "schedules.s", "unknown days"),
        (
            {"schedules": (Schedule("s", 8, 9, min_decode=3),), "max_decode": 2},
            "schedules.s",
            "min_decode 3 is not within 0 .. 2",
        ),
        ({"objectives": Objectives(ttft_s=0.0)}, "objectives.ttft_s", "not more than 0"),
        ({"objectives": Objectives(attainment=1.0)}, "objectives.attainment", "0.5 .. 1"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field_and_limit(
    values: dict[str, object], field: str, limit: str
) -> None:
    with pytest.raises(PlannerConfigError) as raised:
        PlannerConfig(**values)  # type: ignore[arg-type]
    assert raised.value.field == field
    assert limit in raised.value.message


def test_a_schedule_may_span_midnight_and_name_the_days_it_begins_on() -> None:
    night = Schedule("night", 22, 6, days="thu")
    thursday = 0.0  # 1970 began on one
    assert night.is_on(thursday + 23 * 3600)
    assert night.is_on(thursday + 24 * 3600 + 5 * 3600)
    assert not night.is_on(thursday + 12 * 3600)
    assert not night.is_on(thursday + 47 * 3600)


def test_a_worker_is_of_the_kind_that_its_id_begins_with() -> None:
    config = PlannerConfig(hardware=(Hardware("h200"), Hardware("l40s")))
    assert config.kind_of("l40s-decode-1") == "l40s"
    assert config.kind_of("decode-1") == "h200"
    assert config.kind_of("h200-decode-1", "l40s") == "l40s"
    assert config.kind_of("decode-1", "NVIDIA L40S") == "l40s"
    assert config.kind_of("l40s-decode-1", "mi300x") == "l40s"
