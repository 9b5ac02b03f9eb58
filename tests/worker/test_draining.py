"""A worker that drains keeps what others are reading, for as long as a lease lasts."""

import asyncio
from dataclasses import dataclass, field

from wire.messages import Role, WorkerReport
from worker.config import WorkerConfig
from worker.process import _drained


@dataclass
class Engine:
    """Exports by turn: how many are left each time that somebody looks."""

    exports: list[int]
    is_quiet: bool = False
    looks: list[int] = field(default_factory=list)

    @property
    def report(self) -> WorkerReport:
        left = self.exports.pop(0) if len(self.exports) > 1 else self.exports[0]
        self.looks.append(left)
        return WorkerReport(role=Role.PREFILL, num_exports=left)


async def test_published_blocks_are_kept_beyond_the_time_of_the_legs() -> None:
    engine = Engine([2, 2, 1, 0])
    config = WorkerConfig("m", drain_timeout_s=0.01, lease_s=20.0)
    async with asyncio.timeout(60):
        await _drained(config, engine)  # type: ignore[arg-type]
    assert engine.looks == [2, 2, 1, 0]


async def test_a_reader_that_never_ends_is_waited_for_a_lease_and_no_longer() -> None:
    engine = Engine([1])
    config = WorkerConfig("m", drain_timeout_s=0.01, lease_s=0.2)
    async with asyncio.timeout(60):
        await _drained(config, engine)  # type: ignore[arg-type]
    assert set(engine.looks) == {1}
