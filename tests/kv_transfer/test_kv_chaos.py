"""Many pulls at once that are cancelled, aborted and completed in any order."""

import queue
import random
import threading

import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.errors import FailReason

NUM_LAYERS = 6
PROMPT_BLOCKS = 10
NUM_TOKENS = 16 * PROMPT_BLOCKS - 7

EXPECTED = {
    None,
    FailReason.CANCELLED,
    FailReason.PREFILL_ABORTED,
    FailReason.UNKNOWN_HANDLE,
    FailReason.LEASE_EXPIRED,
}


class Request:
    """One prefill and its pull, each with its own source and destination blocks."""

    def __init__(self, rig, rng: random.Random, export_id: int, slot: int) -> None:
        self.rig = rig
        self.rng = rng
        self.export_id = export_id
        self.source = [slot * PROMPT_BLOCKS + at for at in range(PROMPT_BLOCKS)]
        self.target = self.source.copy()
        if rng.random() < 0.5:  # else some transports write in place what they stage otherwise
            rng.shuffle(self.target)
        rng.shuffle(self.source)
        self.results: queue.Queue = queue.Queue()

    def run(self) -> None:
        fate = self.rng.choice(["whole", "whole", "whole", "cancel", "abort"])
        handle = self.rig.exporter.publish(self.export_id, self.source, NUM_TOKENS, 0)
        self.rig.source.view[:, self.source] = 0  # nothing is computed
        self.skip = self.rng.randrange(PROMPT_BLOCKS + 1)
        for block in self.target[self.skip :]:
            self.rig.target.view[:, block] = 0
        ticket = self.rig.importer.pull(handle, self.target, self.skip, self.results.put)
        self.prefill(stop_early=fate == "abort")
        if fate == "abort":
            self.rig.exporter.abort(self.export_id, "chaos")
        if fate == "cancel":
            self.rig.importer.cancel(ticket)
        self.rig.exporter.complete(self.export_id, (self.export_id,))
        self.check(self.results.get(timeout=30))

    def prefill(self, stop_early: bool) -> None:
        """Each layer's KV is written right before the watermark allows it to be read."""
        for start, num_tokens in ((0, 32), (32, 96), (96, NUM_TOKENS)):
            blocks = self.source[start // 16 : -(-num_tokens // 16)]
            for num_layers in range(1, NUM_LAYERS + 1):
                self.rig.source.view[num_layers - 1, blocks] = 1 + self.rng.randrange(255)
                self.rig.exporter.advance(self.export_id, num_tokens, num_layers)
                if stop_early and self.rng.random() < 0.2:
                    return

    def check(self, result) -> None:
        assert result.reason in EXPECTED, result
        if result.ok:
            assert result.output_tokens == (self.export_id,)
            self.rig.assert_copied(self.source, self.target, self.skip)


@pytest.mark.parametrize(
    ("transport", "num_connections"),
    [("memory", 1), ("shm", 1), ("tcp", 1), ("tcp", 3), ("nixl", 1), ("ucx", 1)],
)
def test_every_pull_ends_once_and_every_block_comes_back(
    make_rig, until, transport, num_connections
):
    config = TransferConfig(piece_bytes=10_000, tcp_connections=num_connections)
    rig = make_rig(transport=transport, config=config)
    failures: list[BaseException] = []
    num_rounds, num_slots = 100, 6

    def work(slot: int) -> None:
        rng = random.Random(slot)
        for number in range(num_rounds):
            try:
                Request(rig, rng, slot * num_rounds + number, slot).run()
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(num_slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    until(lambda: len(rig.released) == num_rounds * num_slots)
    rig.exporter.check_integrity()
    rig.importer.check_integrity()
