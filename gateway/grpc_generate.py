"""The service baton.v1.Generate: text or token ids in, pieces of the answer out."""

from collections.abc import Iterable
from typing import Any

from gateway.answer import Piece
from gateway.errors import invalid
from gateway.grpc_calls import Answered, GrpcCalls
from router.output import RequestTrace
from wire.gen import generate_pb2, generate_pb2_grpc
from wire.messages import TokenLogprobs

SERVICE = generate_pb2.DESCRIPTOR.services_by_name["Generate"].full_name
_PROMPTS = {"text", "token_ids"}
_GRAMMARS = {"json_schema": "json", "regex": "regex", "lark": "grammar", "choice": "choice"}


class GenerateService(generate_pb2_grpc.GenerateServicer):
    def __init__(self, calls: GrpcCalls) -> None:
        self._calls = calls

    async def Generate(self, request: generate_pb2.CompletionCall, context: Any) -> None:
        async def write(answered: Answered) -> None:
            await context.write(_event(answered))

        await self._calls.run("grpc_generate", context, lambda: _fields(request), write)


def _fields(call: generate_pb2.CompletionCall) -> dict[str, object]:
    """The fields of a completion's body. Raises ApiError 400 for a call without a prompt."""
    kind = call.WhichOneof("prompt")
    if kind is None:
        raise invalid("the prompt is missing: text or token_ids", "prompt")
    fields: dict[str, object] = {"model": call.model}
    fields["prompt"] = call.text if kind == "text" else list(call.token_ids.ids)
    grammar = call.WhichOneof("grammar")
    if grammar is not None:
        value = getattr(call, grammar)
        text = list(value.texts) if grammar == "choice" else value
        fields["structured_outputs"] = {_GRAMMARS[grammar]: text}
    for descriptor, value in call.ListFields():
        name = descriptor.name
        if name == "logit_bias":
            fields[name] = dict(value)
        elif name not in _PROMPTS and name not in _GRAMMARS:
            fields[name] = value if isinstance(value, str | int | float) else list(value)
    return fields


def _event(answered: Answered) -> generate_pb2.CompletionEvent:
    event = generate_pb2.CompletionEvent(
        pieces=[_piece(piece, answered.prepared.return_token_ids) for piece in answered.pieces]
    )
    if answered.is_last:
        answers = answered.answers
        event.usage.prompt_tokens = answers.num_prompt_tokens
        event.usage.cached_tokens = answers.num_cached_tokens
        event.usage.completion_tokens = answers.num_output_tokens
    if answered.trace is not None:
        event.stages.CopyFrom(_stages(answered.trace))
    return event


def _piece(piece: Piece, shows_ids: bool) -> generate_pb2.Piece:
    index, text, finish_reason, details, stop_string = piece
    message = generate_pb2.Piece(
        index=index, text=text, finish_reason=finish_reason or "", stop_string=stop_string or ""
    )
    if details is not None:
        if shows_ids:
            message.token_ids.extend(details.tokens)
        message.logprobs.extend(_logprobs(details.tokens, details.logprobs))
    return message


def _logprobs(
    tokens: Iterable[int], logprobs: Iterable[TokenLogprobs]
) -> Iterable[generate_pb2.Logprob]:
    for token, found in zip(tokens, logprobs, strict=False):
        yield generate_pb2.Logprob(
            token_id=token,
            logprob=found.logprob,
            top_tokens=[one for one, _ in found.top],
            top_logprobs=[value for _, value in found.top],
        )


def _stages(trace: RequestTrace) -> generate_pb2.Stages:
    return generate_pb2.Stages(
        kind=trace.kind,
        prefill_worker=trace.prefill_worker,
        decode_worker=trace.decode_worker,
        attempts=trace.attempts,
        placed_ms=1e3 * trace.placed_s,
        queue_ms=1e3 * trace.queue_s,
        prefill_ms=1e3 * trace.prefill_s,
        transfer_ms=1e3 * trace.transfer_s,
        exposed_ms=1e3 * trace.exposed_s,
    )
