"""The way of KV between several ranks' memory and the pool that they share."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.parallel.kv_move import KVMove
from engine.parallel.leading_model import RankLostError
from engine.parallel.rank_kv import RankKV, device_of_rank
from engine.parallel.ranked_path import RankedPath
from engine.pinned import spanned_bytes

LAYERS, BLOCKS, HEADS = 3, 6, 4
DEADLINE_S = 30.0


class OtherRank:
    """A rank above 0 in this process, which saves when the test says so."""

    def __init__(self, pool: Tensor, heads: range) -> None:
        self.share = RankKV.over(pool, heads, torch.device("cpu"), is_own=True)
        self.is_lost = False
        self._moves: list[KVMove] = []
        self._saved = threading.Semaphore(0)
        self._num_saved = 0

    def send(self, message: bytes) -> None:
        if self.is_lost:
            raise RankLostError("it has ended")
        move = KVMove.unpack(message)
        assert move is not None
        self._moves.append(move)

    def wait_saved(self, count: int) -> bool:
        while self._num_saved < count and not self.is_lost:
            assert self._saved.acquire(timeout=DEADLINE_S)
            self._num_saved += 1
        return not self.is_lost

    def catch_up(self) -> None:
        mirror = self.share.mirror
        assert mirror is not None
        for move in self._moves:
            if move.is_save:
                mirror.save(move.block_ids, move.first_layer, move.last_layer, self._saved.release)
            else:
                mirror.load(move.block_ids)
        self._moves.clear()

    def lose(self) -> None:
        self.is_lost = True
        self._saved.release()


class Two:
    """Two ranks of two heads each, with numbers in their memory that tell the element apart."""

    def __init__(self) -> None:
        shape = (LAYERS, BLOCKS, 2, HEADS, 16, 8)
        self.pool = torch.full(shape, -1.0)
        self.whole = torch.arange(self.pool.numel(), dtype=torch.float32).view(shape)
        self.own = RankKV.over(self.pool, range(2), torch.device("cpu"), is_own=True)
        self.other = OtherRank(self.pool, range(2, 4))
        for kv, heads in ((self.own.kv, slice(2)), (self.other.share.kv, slice(2, 4))):
            kv.copy_(self.whole[:, :, :, heads])
        assert self.own.mirror is not None
        self.path = RankedPath(self.own.mirror, LAYERS, self.other)

    def close(self) -> None:
        self.path.close()
        self.other.share.close()


@pytest.fixture
def two() -> Iterator[Two]:
    made = Two()
    yield made
    made.close()


def test_blocks_are_told_saved_when_every_rank_has_saved_its_heads(two: Two) -> None:
    told, ended = threading.Event(), threading.Event()
    two.path.save([4, 1, 2], 1, 3, told.set)
    two.path.after_saves(ended.set)
    assert not told.is_set()
    two.other.catch_up()
    assert told.wait(DEADLINE_S) and ended.wait(DEADLINE_S)
    saved = [1, 2, 4]
    assert torch.equal(two.pool[1:, saved], two.whole[1:, saved])
    assert (two.pool[0] == -1).all() and (two.pool[1:, [0, 3, 5]] == -1).all()


def test_loaded_blocks_reach_every_rank(two: Two) -> None:
    two.pool.copy_(-two.whole)
    two.path.before_pull()
    two.path.load([5, 0])
    two.other.catch_up()
    for kv, heads in ((two.own.kv, slice(2)), (two.other.share.kv, slice(2, 4))):
        assert torch.equal(kv[:, [0, 5]], -two.whole[:, [0, 5], :, heads])
        assert torch.equal(kv[:, 1:5], two.whole[:, 1:5, :, heads])


def test_what_a_lost_rank_has_not_saved_is_never_told_saved(two: Two) -> None:
    told: list[int] = []
    two.path.save([0], 0, LAYERS, lambda: told.append(1))
    two.path.after_saves(lambda: told.append(2))
    two.other.lose()
    two.path.save([1], 0, LAYERS, lambda: told.append(3))
    two.path.load([2])
    two.path.close()
    assert not told


def test_a_share_of_the_heads_spans_the_bytes_between_its_ends(two: Two) -> None:
    share = two.pool[:, :, :, 2:4]
    skipped = share.data_ptr() - two.pool.data_ptr()
    assert spanned_bytes(two.pool) == two.pool.nbytes
    assert spanned_bytes(share) == two.pool.nbytes - skipped


def test_gpus_of_the_ranks_follow_that_of_the_first() -> None:
    names = [str(device_of_rank(torch.device("cuda:2"), rank)) for rank in range(3)]
    assert names == ["cuda:2", "cuda:3", "cuda:4"]
    assert str(device_of_rank(torch.device("cuda"), 1)) == "cuda:1"
    assert str(device_of_rank(torch.device("cpu"), 1)) == "cpu"
