"""The actuator that only says what should be."""

import pytest

from control_plane.actuators.actuator import ActuatorRefused
from control_plane.actuators.advisory import AdvisoryActuator
from runtime.metrics import CONTROL_METRICS, Metrics
from wire.messages import Role


async def test_what_is_wanted_is_a_metric_for_keda_and_an_hpa():
    metrics = Metrics(CONTROL_METRICS)
    actuator = AdvisoryActuator(metrics, lambda: {"a": Role.PREFILL, "b": Role.DECODE})
    await actuator.recommend(2, 5)
    text = metrics.exposition().decode()
    assert 'baton_control_desired_workers{role="prefill"} 2.0' in text
    assert 'baton_control_desired_workers{role="decode"} 5.0' in text
    prefill, decode = await actuator.status()
    assert (prefill.wanted, prefill.running, prefill.starting) == (2, 1, 1)
    assert (decode.wanted, decode.running, decode.starting) == (5, 1, 4)
    await actuator.close()


async def test_it_starts_and_ends_nothing_and_says_who_does():
    actuator = AdvisoryActuator(Metrics(CONTROL_METRICS))
    with pytest.raises(ActuatorRefused, match="3 more decode workers are wanted"):
        await actuator.add(Role.DECODE, 3, "")
    with pytest.raises(ActuatorRefused, match="ends no worker, decode-0"):
        await actuator.remove("decode-0")
    assert [pool.wanted for pool in await actuator.status()] == [0, 0]
