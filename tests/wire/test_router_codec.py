"""What the router's own service is asked and answers comes back from the wire as it went in."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from wire import router_codec
from wire.block_hash import block_hashes
from wire.gen import router_pb2
from wire.messages import FinishReason, GenerateRequest, RequestTerms, SamplingParams, TokenLogprobs
from wire.router_messages import (
    DEFAULT_ANSWER_TOKENS,
    GenerateDelta,
    PairForecast,
    PlaceCall,
    Placed,
    PlaceReply,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TOKENS = st.lists(U32, max_size=20).map(tuple)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
TIMES = st.floats(0, 1e6)
# Milliseconds on the wire: whole ones, so that they come back as the seconds that they were.
SECONDS = st.integers(0, 10_000).map(lambda ms: ms / 1e3)
TERMS = st.builds(RequestTerms, TEXT, st.floats(0.1, 10), SECONDS, SECONDS, TEXT, TEXT)
PLACED = st.builds(Placed, TEXT, U64, TEXT)
PAIRS = st.lists(st.builds(PairForecast, TEXT, TEXT, *[TIMES] * 7), max_size=3).map(tuple)


def same_terms(left, right):
    rounded = [
        replace(t, ttft_slo_s=round(t.ttft_slo_s, 6), tpot_slo_s=round(t.tpot_slo_s, 6))
        for t in (left, right)
    ]
    return rounded[0] == rounded[1]


@given(
    st.builds(
        PlaceCall,
        TEXT,
        TOKENS,
        st.lists(U64, max_size=9).map(tuple),
        U32,
        st.integers(1, 9999),
        st.integers(-9, 9),
        TEXT,
        TERMS,
        st.lists(TEXT, max_size=3).map(tuple),
    )
)
def test_a_place_call(call):
    back = router_codec.decode_place(_wired(router_codec.encode_place(call)))
    assert same_terms(back.terms, call.terms)
    assert replace(back, terms=call.terms) == call


@given(st.builds(PlaceReply, st.none() | PLACED, PLACED, TEXT, TEXT, PAIRS, TIMES))
def test_a_place_reply(reply):
    assert router_codec.decode_place_reply(_wired(router_codec.encode_place_reply(reply))) == reply


@given(TOKENS, TEXT, TERMS, st.integers(-9, 9))
def test_a_generate_call_has_its_hashes_made_again(prompt, salt, terms, priority):
    sampling = SamplingParams(temperature=0.5, top_p=0.25, max_tokens=7, grammar=None)
    hashes = tuple(block_hashes(prompt, salt))
    request = GenerateRequest("r", prompt, sampling, hashes, priority, salt, terms, "00-ab-cd-01")
    back = router_codec.decode_generate(_wired(router_codec.encode_generate(request)))
    assert same_terms(back.terms, terms)
    assert replace(back, terms=terms) == request


def test_what_a_caller_leaves_out_takes_its_default():
    request = router_codec.decode_generate(router_pb2.GenerateCall(prompt_tokens=[1]))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (0.0, 1.0, 1.0)
    assert sampling.max_tokens == DEFAULT_ANSWER_TOKENS
    assert request.terms == RequestTerms()
    assert router_codec.decode_place(router_pb2.PlaceCall()).max_tokens == DEFAULT_ANSWER_TOKENS


def test_a_delta():
    delta = GenerateDelta(
        (1, 2), (TokenLogprobs(-0.5, ((1, -0.5),)),) * 2, FinishReason.STOP, 32, "remote", "p", "d"
    )
    assert router_codec.decode_delta(_wired(router_codec.encode_delta(delta))) == delta
    bare = GenerateDelta((3,))
    assert router_codec.decode_delta(_wired(router_codec.encode_delta(bare))) == bare


def _wired(message):
    return type(message).FromString(message.SerializeToString())
