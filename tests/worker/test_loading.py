"""What a worker says while it reads a model's weights."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

import baton
from engine.config import ModelConfig
from engine.weights import load
from runtime.clock import VirtualClock
from worker.loading import ReadLog

DEMO = Path(baton.__file__).parent / "demo_model"


@pytest.mark.parametrize("fp8_kv", [False, True])
def test_the_share_of_the_weights_that_is_read_grows_to_all_of_them(fp8_kv: bool) -> None:
    told: list[float] = []
    config = ModelConfig.from_directory(DEMO)
    load(DEMO, config, torch.float32, fp8_kv=fp8_kv, on_read=told.append)
    assert all(first <= second for first, second in pairwise(told))
    assert 0 < told[0] < told[-1] == 1


def test_reading_is_logged_every_two_seconds_and_not_at_all_when_it_is_quick() -> None:
    clock = VirtualClock()
    log = ReadLog(clock)
    with capture_logs() as lines:
        for percent in range(1, 11):
            clock.advance(0.9)
            log(percent / 100)
    assert [line["percent"] for line in lines] == [3, 6, 9]
    assert {line["event"] for line in lines} == {"reading_weights"}
