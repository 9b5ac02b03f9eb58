"""Events that are encoded once around their texts."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat_delta import Delta
from gateway.chat_replies import Chunk, ChunkChoice
from gateway.replies import TextEvents, event


@given(text=st.text(), model=st.text(max_size=8), index=st.integers(0, 127))
def test_an_event_around_a_text_is_the_event_that_is_encoded_whole(
    text: str, model: str, index: int
) -> None:
    def whole(text: str) -> bytes:
        return event(Chunk("chatcmpl-1", 1, model, (ChunkChoice(index, Delta(content=text)),)))

    events = TextEvents(whole)
    assert events.event(text) == whole(text)
    assert events.event(text + "more") == whole(text + "more")
    assert msgspec.json.decode(events.event(text)[6:])["choices"][0]["delta"] == {"content": text}
