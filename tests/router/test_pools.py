"""The view of the workers, renewed one by one, is the one that is made afresh."""

from hypothesis import given
from hypothesis import strategies as st

from router.candidates import Candidate
from router.pools import CandidatePools
from wire.messages import Role

WORKERS = tuple("abcde")

changes = st.lists(
    st.tuples(
        st.sampled_from(WORKERS),
        st.none() | st.tuples(st.sampled_from(list(Role)), st.integers(0, 9)),
    )
)


def candidate(worker_id, what):
    role, num_seqs = what
    return Candidate(worker_id, 1, role, 0, num_seqs, 0, 0)


@given(batches=st.lists(changes, max_size=8))
def test_renewed_pools_equal_pools_that_are_filled_afresh(batches):
    pools, known = CandidatePools(), {}
    for batch in batches:
        for worker_id, what in batch:
            known[worker_id] = None if what is None else candidate(worker_id, what)
        changed = {worker_id for worker_id, _ in batch}
        every = [known[name] for name in WORKERS if known.get(name) is not None]
        if not all(pools.renew(worker_id, known[worker_id]) for worker_id in changed):
            pools.fill(every)
        afresh = CandidatePools()
        afresh.fill(every)
        assert pools.view({}) == afresh.view({})
