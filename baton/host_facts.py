"""Hardware and versions, to stand beside a measured figure."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import psutil

from baton.checks.host import processor_features, processor_name
from runtime.clock import wall_time_s

_PACKAGES = ("baton-serve", "torch", "numpy", "grpcio")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Where and with what a measurement ran. measured_at: UTC, ISO 8601."""

    measured_at: str
    system: str
    processor: str
    processor_features: tuple[str, ...]
    num_cores: int
    num_usable_cores: int
    memory_bytes: int
    python: str
    packages: dict[str, str]


def host_facts() -> HostFacts:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    num_cores = os.cpu_count() or 1
    return HostFacts(
        measured_at=datetime.fromtimestamp(wall_time_s(), UTC).isoformat(timespec="seconds"),
        system=platform.platform(),
        processor=processor_name(),
        processor_features=processor_features(),
        num_cores=num_cores,
        num_usable_cores=len(usable) or num_cores,
        memory_bytes=psutil.virtual_memory().total,
        python=platform.python_version(),
        packages={name: version(name) for name in _PACKAGES},
    )
