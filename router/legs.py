"""The legs of one placement: where they run, what they count as there, how they begin and end."""

from collections.abc import Callable

from router.policies.policy import RequestFacts
from router.session import LegSink, WorkerSession
from router.stitcher import Stitcher
from wire.kv import KVHandle
from wire.messages import GenerateRequest, StartLeg


class Legs:
    """One that decodes and, where another worker computes the prompt, one that prefills.

    Owns them: close() ends whatever is still open on either worker, an export that nobody has
    pulled included. A move puts another leg in the place of the one that decodes.
    """

    def __init__(
        self,
        request: GenerateRequest,
        workers: tuple[WorkerSession | None, WorkerSession],
        stitcher: Stitcher,
        sink: LegSink,
        next_leg_id: Callable[[], int],
    ) -> None:
        """sink: takes their events. stitcher: has the answer's tokens when a leg starts."""
        self.prefill, self.decode = workers
        self.prefill_id = next_leg_id()
        self.decode_id = next_leg_id()
        self.is_decode_started = False
        self.is_prefilled = False
        self._is_pulled = False
        self._has_moved = False
        self._request = request
        self._stitcher = stitcher
        self._sink = sink

    @property
    def workers(self) -> frozenset[tuple[str, int]]:
        """By name and epoch."""
        both = (self.decode,) if self.prefill is None else (self.decode, self.prefill)
        return frozenset((session.info.worker_id, session.info.epoch) for session in both)

    @property
    def starter(self) -> WorkerSession:
        """Who computes the prompt."""
        return self.prefill or self.decode

    def reserve(self, facts: RequestFacts, pull_tokens: int) -> None:
        """Counts them on their workers until reports do. pull_tokens: of the prompt, that come
        from a peer."""
        most = max(1, facts.num_tokens - pull_tokens)  # that is left to compute
        worker_id = self.decode.info.worker_id
        self.decode.reserve_leg(
            self.decode_id,
            compute_tokens=0 if self.prefill else min(facts.effort_tokens(worker_id), most),
            new_tokens=facts.uncached_tokens(worker_id),
            num_tokens=facts.num_tokens,
        )
        if self.prefill is not None:
            worker_id = self.prefill.info.worker_id
            self.prefill.reserve_leg(
                self.prefill_id,
                compute_tokens=min(facts.effort_tokens(worker_id), most),
                new_tokens=facts.uncached_tokens(worker_id),
            )

    def begin(self, handle: KVHandle | None) -> None:
        """Starts the leg that computes the prompt; handle: of its beginning, at a peer."""
        if self.prefill is None:
            self.start_decode(handle)
            return
        sent = self._stitcher.sent
        leg = StartLeg(self.prefill_id, self._request, sent, prefill_only=True, handle=handle)
        self.prefill.start_leg(leg, self._sink)

    def start_decode(self, handle: KVHandle | None) -> None:
        """handle: None where it computes what it lacks."""
        self.is_decode_started = True
        leg = StartLeg(self.decode_id, self._request, self._stitcher.sent, handle=handle)
        self.decode.start_leg(leg, self._sink)

    def computes_prompt(self, leg_id: int) -> bool:
        """Whether this leg, whose first tokens have come, has computed the prompt for them."""
        if leg_id == self.decode_id and not self._has_moved:
            return self.prefill is None or not self._is_pulled
        return leg_id == self.prefill_id

    def prefilled(self) -> None:
        """The leg that prefills has ended; what it exports stays until it is pulled."""
        self.is_prefilled = True
        self._settle_export()

    def pulled(self) -> None:
        """The leg that decodes has the other one's blocks."""
        self._is_pulled = True
        self._settle_export()

    def go_on(self, worker: WorkerSession, leg_id: int) -> None:
        """The answer comes from this leg from here on."""
        self.decode.cancel_leg(self.decode_id)
        self.decode, self.decode_id = worker, leg_id
        self._has_moved = True

    def close(self) -> None:
        """Ends what is open on both workers; safe to repeat."""
        self.decode.cancel_leg(self.decode_id)
        if self.prefill is not None:
            self.prefill.cancel_leg(self.prefill_id)

    def _settle_export(self) -> None:
        if self.is_prefilled and self._is_pulled and self.prefill is not None:
            self.prefill.settle_leg(self.prefill_id)
