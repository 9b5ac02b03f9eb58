"""How loaded an engine is, of what its queues and its pool hold."""

from engine.batch import Scheduler
from engine.block_pool import BlockPool
from engine.results import EngineLoad
from wire.messages import HostLoad


def load_of(scheduler: Scheduler, pool: BlockPool, host: HostLoad) -> EngineLoad:
    """The load of this moment; held and reserved sequences count in the blocks only."""
    unstarted = sum(max(s.num_tokens - s.cached_estimate, 0) for s in scheduler.waiting)
    started = (*scheduler.ready, *scheduler.running)
    return EngineLoad(
        num_running=len(scheduler.running),
        num_waiting=len(scheduler.waiting) + len(scheduler.ready),
        waiting_tokens=unstarted + sum(s.num_uncomputed for s in started if s.is_prefilling),
        num_blocks=pool.num_blocks,
        num_free_blocks=pool.num_free,
        context_tokens=sum(s.num_computed for s in scheduler.running),
        num_preemptions=scheduler.num_preemptions,
        host=host,
    )
