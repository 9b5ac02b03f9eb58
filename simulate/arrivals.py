"""From a load test's workload to the simulation's requests."""

from collections.abc import Sequence
from typing import cast

from loadtest.plan import Conversation, Segment
from simulate.gateway import Arrival
from simulate.prefixes import unit_keys
from simulate.slo_class import SloClass, class_of
from wire.messages import GenerateRequest, RequestTerms, SamplingParams


class Turns:
    """A conversation's requests, one after the other: each has all before it in its prompt."""

    def __init__(
        self,
        conversation: Conversation,
        index: int,
        unit_tokens: int,
        classes: Sequence[SloClass] = (),
    ) -> None:
        self._class = class_of(classes, conversation.class_name, index)
        self._conversation = conversation
        self._index = index
        self._unit_tokens = unit_tokens
        self._segments: list[Segment] = []
        self._next = 0

    def first(self) -> Arrival:
        arrival = self.after(self._conversation.at_s)
        assert arrival is not None, "a conversation has a turn"
        return arrival

    def after(self, answered_s: float) -> Arrival | None:
        """The next turn's request, its user's thinking done; None after the last one."""
        turns = self._conversation.turns
        if self._next == len(turns):
            return None
        turn, number = turns[self._next], self._next
        self._next += 1
        self._segments.extend(turn.segments)
        request_index = self._conversation.first_index + number
        request = self._request(request_index, turn.num_output)
        keys = request.block_hashes
        if self._next < len(turns):
            # The answer is a content of its own, and the next turn asks for it.
            self._segments.append(Segment(-request_index - 1, turn.num_output))
            keys = unit_keys(self._segments, self._unit_tokens)
        return Arrival(
            index=request_index,
            at_s=answered_s + turn.think_s,
            request=request,
            class_name=self._conversation.class_name if self._class is None else self._class.name,
            conversation=self._index,
            turn=number,
            keys=keys,
        )

    def _request(self, index: int, num_output: int) -> GenerateRequest:
        num_tokens = sum(num for _, num in self._segments)
        promised = self._class
        terms = RequestTerms()
        if promised is not None:
            terms = RequestTerms(
                ttft_slo_s=promised.ttft_ms / 1e3, tpot_slo_s=promised.tpot_ms / 1e3
            )
        return GenerateRequest(
            request_id=str(index),
            prompt_tokens=cast("tuple[int, ...]", range(num_tokens)),  # only its length counts
            sampling=SamplingParams(max_tokens=num_output, ignore_eos=True),
            block_hashes=unit_keys(self._segments, self._unit_tokens),
            priority=0 if promised is None else promised.priority,
            terms=terms,
        )
