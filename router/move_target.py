"""Where a running answer moves to."""

from router.breaker import CircuitBreaker
from router.migration import choose_target
from router.session import WorkerSession
from router.sessions import Sessions
from runtime.clock import Clock


def find_target(
    sessions: Sessions,
    breaker: CircuitBreaker,
    clock: Clock,
    excluded: frozenset[tuple[str, int]],
    source: WorkerSession,
    num_tokens: int,
    only_to_room: bool,
) -> WorkerSession | None:
    """Another live worker of the source's group, None where there is none.

    excluded: worker processes, by name and epoch, that the request has failed on. num_tokens: of
    its prompt and answer. only_to_room: to more free blocks than the source has.
    """
    num_free_blocks = source.load.num_free_blocks if only_to_room else 0
    shunned = excluded | breaker.open_workers(clock.now())
    worker_id = source.info.worker_id
    found = choose_target(
        sessions.view(), worker_id, source.group, num_tokens, num_free_blocks, shunned
    )
    return None if found is None else sessions.get(found.worker_id)
