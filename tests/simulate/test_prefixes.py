"""Keys of cached units, and the router's map over them."""

from hypothesis import given
from hypothesis import strategies as st

from loadtest.plan import Segment
from simulate.kv_pool import KvPool
from simulate.prefixes import UnitPrefixMap, unit_keys
from wire.messages import BlockEvent, BlockSnapshot

SEGMENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=8)


def tokens_of(segments):
    return [(block_id, place) for block_id, count in segments for place in range(count)]


@given(SEGMENTS, SEGMENTS)
def test_keys_are_equal_exactly_where_the_tokens_up_to_there_are(left, right):
    keys = [unit_keys([Segment(*s) for s in each], 32) for each in (left, right)]
    tokens = [tokens_of(left), tokens_of(right)]
    assert [len(k) for k in keys] == [len(t) // 32 for t in tokens]
    for index, pair in enumerate(zip(*keys, strict=False)):
        end = 32 * (index + 1)
        if tokens[0][:end] != tokens[1][:end]:
            assert pair[0] != pair[1]


def test_whole_blocks_of_a_trace_give_equal_keys_for_equal_ids():
    one = unit_keys([Segment(0, 512), Segment(5, 512), Segment(6, 40)], 512)
    other = unit_keys([Segment(0, 512), Segment(5, 512), Segment(9, 512)], 512)
    assert one == other[:2]


def test_the_map_counts_a_unit_as_its_blocks():
    prefix_map = UnitPrefixMap(1 << 10, unit_blocks=32)
    prefix_map.add_worker("d0")
    prefix_map.load_snapshot("d0", BlockSnapshot(0))
    prefix_map.apply("d0", BlockEvent(1, stored=(11, 12)))
    prefix_map.speculate(["d0"], (11, 12, 13), 1.0)
    match = prefix_map.match((11, 12, 13, 14))
    assert (match.confirmed, match.held) == ({"d0": 64}, {"d0": 96})


def test_the_longest_unused_unit_leaves_first_and_the_router_hears_of_it():
    pool = KvPool(8, unit_blocks=2)
    for key in (1, 2, 3, 4):
        pool.claim((), 2)
        assert pool.store(key, None, []) == 2
    pool.take_event()
    for key in (1, 2, 3, 4):
        pool.release([key], 0, num_content=0)
    pool.claim((1,), 2)  # 1 is in use again; 2 is the oldest
    event = pool.take_event()
    assert (event.stored, event.removed) == ((), (2,))
    assert [pool.match((key,)) for key in (1, 2, 3)] == [1, 0, 1]
    pool.check_integrity(num_private=2)


def test_what_does_not_fit_changes_nothing():
    pool = KvPool(4, unit_blocks=2)
    assert not pool.can_claim((), 5)
    assert pool.num_free == 4
    pool.check_integrity(num_private=0)
