"""A request's device time over its legs: what computed the prompt, and what decoded."""

import pytest

from router.device_time import DeviceTime


def test_the_first_tokens_of_a_leg_that_computes_the_prompt_tell_its_prefill() -> None:
    device = DeviceTime()
    for device_s in (0.5, 0.6, 0.75):
        device.note(1, device_s, lambda _: True)
    assert (device.prefill_s, device.decode_s) == (0.5, 0.25)


def test_a_leg_whose_prompt_came_from_elsewhere_only_decodes() -> None:
    device = DeviceTime()
    device.note(1, 0.5, lambda leg_id: leg_id == 1)
    for device_s in (0.01, 0.02, 0.03):
        device.note(2, device_s, lambda leg_id: leg_id == 1)
    assert device.prefill_s == 0.5
    assert device.decode_s == pytest.approx(0.03)


def test_whose_prompt_it_is_is_asked_once_a_leg() -> None:
    asked: list[int] = []
    device = DeviceTime()
    for _ in range(3):
        device.note(7, 0.1, lambda leg_id: bool(asked.append(leg_id)))  # type: ignore[func-returns-value]
    assert asked == [7]


def test_nothing_told_is_nothing() -> None:
    assert (DeviceTime().prefill_s, DeviceTime().decode_s) == (0, 0)
