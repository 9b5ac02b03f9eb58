"""Frames of HTTP/2: however the bytes are cut, the same frames come out."""

import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from wire import http2
from wire.http2 import Frame, FrameError, FrameReader, Kind, Setting

frames = st.lists(
    st.builds(
        Frame,
        st.sampled_from(list(Kind)),
        st.integers(0, 255),
        st.integers(0, http2.MAX_WINDOW),
        st.binary(max_size=300),
    ),
    max_size=8,
)


@given(frames, st.lists(st.integers(0, 2_000), max_size=12))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[Frame], cuts: list[int]
) -> None:
    data = b"".join(http2.encode(Kind(f.kind), f.flags, f.stream, f.payload) for f in sent)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader = FrameReader()
    found: list[Frame] = []
    for start, end in zip(places, places[1:], strict=False):
        found += reader.push(data[start:end])
    assert found == sent


@given(st.binary(max_size=40), st.integers(0, 20), st.booleans())
def test_padding_and_priority_are_no_content(
    content: bytes, num_padding: int, has_priority: bool
) -> None:
    priority = b"\0\0\0\1\x10" if has_priority else b""
    payload = bytes((num_padding,)) + priority + content + b"\0" * num_padding
    flags = http2.PADDED | (http2.PRIORITY if has_priority else 0)
    assert Frame(Kind.HEADERS, flags, 1, payload).content == content


@pytest.mark.parametrize("payload", [b"", b"\x05abc"])
def test_a_frame_shorter_than_its_padding_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError, match="padding"):
        _ = Frame(Kind.DATA, http2.PADDED, 1, payload).content


def test_a_frame_over_the_limit_is_refused_before_it_has_come() -> None:
    head = http2.encode(Kind.DATA, 0, 1, b"\0" * (http2.FIRST_MAX_FRAME + 1))[:9]
    with pytest.raises(FrameError, match="at most 16384"):
        list(FrameReader().push(head))


@given(st.lists(st.tuples(st.text("abc-", min_size=1, max_size=9), st.text(max_size=300))))
def test_header_fields_are_what_another_decoder_reads(fields: list[tuple[str, str]]) -> None:
    assert Decoder().decode(http2.encode_fields(fields)) == fields


def test_settings_and_numbers_are_read_back_and_checked() -> None:
    settings = ((Setting.ENABLE_PUSH, 0), (Setting.INITIAL_WINDOW_SIZE, http2.MAX_WINDOW))
    [frame] = FrameReader().push(http2.encode_settings(settings))
    assert http2.decode_settings(frame.payload) == list(settings)
    [frame] = FrameReader().push(http2.encode_number(Kind.RST_STREAM, 1, http2.CANCEL))
    assert (frame.stream, frame.number()) == (1, http2.CANCEL)
    with pytest.raises(FrameError, match="5 bytes"):
        http2.decode_settings(b"12345")
    with pytest.raises(FrameError, match="3 bytes"):
        Frame(Kind.WINDOW_UPDATE, 0, 1, b"123").number()
