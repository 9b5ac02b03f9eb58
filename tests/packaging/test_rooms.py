"""Each room belongs to this distribution: generic names can be overwritten silently."""

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

ROOMS = [
    "wire",
    "runtime",
    "engine",
    "kv_transfer",
    "router",
    "loadtest",
    "profiles",
    "simulate",
    "prefill_worker",
    "decode_worker",
    "worker",
    "control_plane",
    "dashboard",
    "gateway",
    "baton",
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_imported_from_this_checkout(room: str) -> None:
    spec = importlib.util.find_spec(room)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


@pytest.mark.parametrize("room", ROOMS)
def test_no_other_distribution_brings_a_room(room: str) -> None:
    owners = set(importlib.metadata.packages_distributions().get(room, []))
    assert owners <= {"baton-serve"}


def test_proto_holds_no_python() -> None:
    assert not list((ROOT / "proto").glob("*.py"))
