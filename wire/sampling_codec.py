"""Between protobuf and what is asked of the sampler, and what it gives: tokens."""

from wire.errors import BatonError, ErrorCode
from wire.gen import worker_pb2
from wire.messages import Grammar, GrammarKind, LegTokens, SamplingParams, TokenLogprobs


def encode_sampling(params: SamplingParams) -> worker_pb2.Sampling:
    grammar = params.grammar
    return worker_pb2.Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=params.seed,
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        ignore_eos=params.ignore_eos,
        stop_token_ids=params.stop_token_ids,
        top_logprobs=params.top_logprobs,
        bias_tokens=[token for token, _ in params.logit_bias],
        bias_values=[bias for _, bias in params.logit_bias],
        grammar_kind="" if grammar is None else grammar.kind.value,
        grammar="" if grammar is None else grammar.text,
    )


def decode_sampling(message: worker_pb2.Sampling) -> SamplingParams:
    """Raises BatonError INVALID_REQUEST for a grammar of a kind that this version does not know."""
    return SamplingParams(
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        seed=message.seed,
        max_tokens=message.max_tokens,
        min_tokens=message.min_tokens,
        ignore_eos=message.ignore_eos,
        stop_token_ids=tuple(message.stop_token_ids),
        logit_bias=tuple(zip(message.bias_tokens, message.bias_values, strict=False)),
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
        grammar=_decode_grammar(message) if message.grammar_kind else None,
    )


def _decode_grammar(message: worker_pb2.Sampling) -> Grammar:
    try:
        return Grammar(GrammarKind(message.grammar_kind), message.grammar)
    except ValueError as error:
        raise BatonError(ErrorCode.INVALID_REQUEST, str(error)) from error


def encode_tokens(event: LegTokens) -> worker_pb2.LegTokens:
    if not event.logprobs:
        return worker_pb2.LegTokens(index=event.index, tokens=event.tokens, device_s=event.device_s)
    logprobs = [
        worker_pb2.TokenLogprobs(
            logprob=one.logprob,
            top_tokens=[token for token, _ in one.top],
            top_logprobs=[logprob for _, logprob in one.top],
        )
        for one in event.logprobs
    ]
    return worker_pb2.LegTokens(
        index=event.index, tokens=event.tokens, logprobs=logprobs, device_s=event.device_s
    )


def decode_tokens(leg_id: int, message: worker_pb2.LegTokens) -> LegTokens:
    tokens = tuple(message.tokens)
    if not message.logprobs:
        return LegTokens(leg_id, message.index, tokens, (), message.device_s)
    logprobs = tuple(
        TokenLogprobs(one.logprob, tuple(zip(one.top_tokens, one.top_logprobs, strict=False)))
        for one in message.logprobs
    )
    return LegTokens(leg_id, message.index, tokens, logprobs, message.device_s)
