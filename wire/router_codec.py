"""Between protobuf and what the router's own service is asked and answers."""

from dataclasses import asdict, replace

from wire.block_hash import block_hashes
from wire.gen import router_pb2, worker_pb2
from wire.messages import FinishReason, GenerateRequest, RequestTerms, TokenLogprobs
from wire.router_messages import (
    DEFAULT_ANSWER_TOKENS,
    GenerateDelta,
    PairForecast,
    PlaceCall,
    Placed,
    PlaceReply,
)
from wire.sampling_codec import decode_sampling, encode_sampling


def encode_place(call: PlaceCall) -> router_pb2.PlaceCall:
    return router_pb2.PlaceCall(
        place_id=call.place_id,
        prompt_tokens=call.prompt_tokens,
        block_hashes=call.block_hashes,
        num_tokens=call.num_tokens,
        max_tokens=call.max_tokens,
        priority=call.priority,
        cache_salt=call.cache_salt,
        terms=_encode_terms(call.terms),
        excluded=call.excluded,
    )


def decode_place(message: router_pb2.PlaceCall) -> PlaceCall:
    return PlaceCall(
        place_id=message.place_id,
        prompt_tokens=tuple(message.prompt_tokens),
        block_hashes=tuple(message.block_hashes),
        num_tokens=message.num_tokens,
        max_tokens=message.max_tokens or DEFAULT_ANSWER_TOKENS,
        priority=message.priority,
        cache_salt=message.cache_salt,
        terms=_decode_terms(message.terms),
        excluded=tuple(message.excluded),
    )


def encode_place_reply(reply: PlaceReply) -> router_pb2.PlaceReply:
    return router_pb2.PlaceReply(
        prefill=None if reply.prefill is None else router_pb2.Placed(**asdict(reply.prefill)),
        decode=router_pb2.Placed(**asdict(reply.decode)),
        kind=reply.kind,
        explanation=reply.explanation,
        candidates=[_encode_pair(pair) for pair in reply.candidates],
        ttl_s=reply.ttl_s,
    )


def decode_place_reply(message: router_pb2.PlaceReply) -> PlaceReply:
    return PlaceReply(
        prefill=_decode_placed(message.prefill) if message.HasField("prefill") else None,
        decode=_decode_placed(message.decode),
        kind=message.kind,
        explanation=message.explanation,
        candidates=tuple(_decode_pair(pair) for pair in message.candidates),
        ttl_s=message.ttl_s,
    )


def encode_generate(request: GenerateRequest) -> router_pb2.GenerateCall:
    """block_hashes do not travel: the other side makes them of the tokens."""
    return router_pb2.GenerateCall(
        request_id=request.request_id,
        prompt_tokens=request.prompt_tokens,
        sampling=encode_sampling(request.sampling),
        priority=request.priority,
        cache_salt=request.cache_salt,
        terms=_encode_terms(request.terms),
        traceparent=request.traceparent,
        keep_s=request.keep_s,
    )


def decode_generate(message: router_pb2.GenerateCall) -> GenerateRequest:
    """Fields of the sampling that were left out and have no meaning at 0 take their defaults.

    Raises BatonError INVALID_REQUEST for an unknown kind of grammar.
    """
    sampling = decode_sampling(message.sampling)
    prompt = tuple(message.prompt_tokens)
    return GenerateRequest(
        request_id=message.request_id,
        prompt_tokens=prompt,
        sampling=replace(
            sampling,
            top_p=sampling.top_p or 1.0,
            repetition_penalty=sampling.repetition_penalty or 1.0,
            max_tokens=sampling.max_tokens or DEFAULT_ANSWER_TOKENS,
        ),
        block_hashes=tuple(block_hashes(prompt, message.cache_salt)),
        priority=message.priority,
        cache_salt=message.cache_salt,
        terms=_decode_terms(message.terms),
        traceparent=message.traceparent,
        keep_s=message.keep_s,
    )


def encode_delta(delta: GenerateDelta) -> router_pb2.GenerateDelta:
    return router_pb2.GenerateDelta(
        tokens=delta.tokens,
        logprobs=[
            worker_pb2.TokenLogprobs(
                logprob=one.logprob,
                top_tokens=[token for token, _ in one.top],
                top_logprobs=[logprob for _, logprob in one.top],
            )
            for one in delta.logprobs
        ],
        finish_reason="" if delta.finish_reason is None else delta.finish_reason.value,
        num_cached_tokens=delta.num_cached_tokens,
        kind=delta.kind,
        prefill_worker=delta.prefill_worker,
        decode_worker=delta.decode_worker,
    )


def decode_delta(message: router_pb2.GenerateDelta) -> GenerateDelta:
    return GenerateDelta(
        tokens=tuple(message.tokens),
        logprobs=tuple(
            TokenLogprobs(one.logprob, tuple(zip(one.top_tokens, one.top_logprobs, strict=False)))
            for one in message.logprobs
        ),
        finish_reason=FinishReason(message.finish_reason) if message.finish_reason else None,
        num_cached_tokens=message.num_cached_tokens,
        kind=message.kind,
        prefill_worker=message.prefill_worker,
        decode_worker=message.decode_worker,
    )


def _encode_terms(terms: RequestTerms) -> router_pb2.Terms:
    return router_pb2.Terms(
        tenant=terms.tenant,
        weight=terms.weight,
        ttft_slo_ms=1e3 * terms.ttft_slo_s,
        tpot_slo_ms=1e3 * terms.tpot_slo_s,
        session=terms.session,
        model=terms.model,
    )


def _decode_terms(message: router_pb2.Terms) -> RequestTerms:
    return RequestTerms(
        tenant=message.tenant,
        weight=message.weight or 1.0,
        ttft_slo_s=message.ttft_slo_ms / 1e3,
        tpot_slo_s=message.tpot_slo_ms / 1e3,
        session=message.session,
        model=message.model,
    )


def _decode_placed(message: router_pb2.Placed) -> Placed:
    return Placed(message.worker_id, message.epoch, message.address)


def _encode_pair(pair: PairForecast) -> router_pb2.PairForecast:
    values = asdict(pair)
    workers = {name: values.pop(name) for name in ("prefill_worker", "decode_worker")}
    return router_pb2.PairForecast(**workers, forecast=router_pb2.Forecast(**values))


def _decode_pair(message: router_pb2.PairForecast) -> PairForecast:
    given = message.forecast
    return PairForecast(
        message.prefill_worker,
        message.decode_worker,
        ttft_s=given.ttft_s,
        tpot_s=given.tpot_s,
        queue_s=given.queue_s,
        prefill_s=given.prefill_s,
        fetch_s=given.fetch_s,
        exposed_s=given.exposed_s,
        cost=given.cost,
    )
