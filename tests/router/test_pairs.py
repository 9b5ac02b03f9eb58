"""The measured ways of KV between workers, as the router sees them."""

import pytest

from router.pairs import pair_links
from wire.cluster import Fingerprint, PairStatus, WorkerInfo, may_pair, pair_refusal
from wire.kv import FabricAddress
from wire.messages import Role


def fingerprint(layout: str = "L4H2B16D64:bfloat16", **other: str) -> Fingerprint:
    settings = {"model": "m", "revision": "1", "dtype": "bfloat16", **other}
    return Fingerprint(**settings, block_size=16, kv_layout=layout)


def worker(worker_id: str, *pairs: PairStatus) -> WorkerInfo:
    fabric = FabricAddress("127.0.0.1", 2)
    return WorkerInfo(
        worker_id, 1, Role.DECODE, "127.0.0.1:1", fabric, fingerprint(), 100, 10, pairs=pairs
    )


def test_links_are_read_by_source_and_reader():
    measured = PairStatus("p0", 0.001, 2e9, "tcp", wanted_transport="shm")
    links = pair_links([worker("p0"), worker("d0", measured)])
    assert list(links) == [("p0", "d0")]
    link = links["p0", "d0"]
    assert link.fell_back
    assert link.transfer_s(2_000_000) == pytest.approx(0.002)


@pytest.mark.parametrize(
    "pair",
    [
        PairStatus("p0", 0.0, 0.0, "", ("cannot be reached",)),
        PairStatus("p0", 0.0, 0.0, "", refusal="dtype: float32 there, bfloat16 here"),
        PairStatus("gone", 0.001, 2e9, "tcp"),
    ],
)
def test_a_way_that_was_not_measured_is_left_out(pair):
    assert pair_links([worker("p0"), worker("d0", pair)]) == {}


def test_a_pair_that_got_what_it_wanted_has_not_fallen_back():
    assert not PairStatus("p0", 0.0, 1.0, "tcp", wanted_transport="tcp").fell_back
    assert not PairStatus("p0", 0.0, 1.0, "tcp").fell_back


@pytest.mark.parametrize("layout", ["L4H2B16D64:bfloat16", "L4H2B32D64:bfloat16"])
def test_block_sizes_may_differ(layout):
    assert may_pair(fingerprint(), fingerprint(layout))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (fingerprint("L4H2B16D64:float32"), "dtype: float32 there, bfloat16 here"),
        (fingerprint("L5H2B16D64:bfloat16"), "layers: 5 there, 4 here"),
        (fingerprint("L4H2B16D128:bfloat16"), "head size: 128 there, 64 here"),
        (fingerprint("L4H1B16D64:bfloat16"), "KV heads: 1 there, 2 here"),
        (fingerprint(revision="2"), "model files: 2 there, 1 here"),
        (fingerprint("nonsense"), "not a KV layout: 'nonsense'"),
    ],
)
def test_a_refusal_names_what_differs(other, words):
    assert words in pair_refusal(other, fingerprint())
    assert not may_pair(other, fingerprint())


def test_a_share_of_the_heads_reads_from_all_of_them_and_not_the_other_way_round():
    share = fingerprint("L4H1B16D64:bfloat16:1/2")
    assert pair_refusal(fingerprint(), share) == ""
    assert pair_refusal(share, fingerprint()) == "KV heads [0] are not there"
    assert not may_pair(share, fingerprint())
