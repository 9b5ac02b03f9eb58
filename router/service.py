"""The router's own gRPC service: decisions for others, or whole answers."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from router.router import Router
from wire.block_hash import BLOCK_SIZE, block_hashes
from wire.errors import BatonError, ErrorCode
from wire.messages import GenerateRequest, SamplingParams
from wire.router_messages import GenerateDelta, PlaceCall, PlaceReply

_MOST_TOKENS = 1 << 24


class RouterFront:
    """A wire.router_rpc.RouterService over one router. new_id: names requests without an id."""

    def __init__(self, router: Router, new_id: Callable[[], str]) -> None:
        self._router = router
        self._new_id = new_id

    def place(self, call: PlaceCall) -> PlaceReply:
        """Raises BatonError: INVALID_REQUEST, CONTEXT_LENGTH_EXCEEDED, OVERLOADED, UNAVAILABLE."""
        request = _asked(call)
        self._check_length(request)
        return self._router.place_outside(call.place_id, request, call.excluded)

    def started(self, place_id: str) -> None:
        self._router.outside.started(place_id)

    def release(self, place_id: str) -> None:
        self._router.outside.release(place_id)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateDelta]:
        """The answer's deltas; raises BatonError as Router.generate does."""
        self._check_length(request)
        if not request.request_id:
            request = replace(request, request_id=self._new_id())
        async with contextlib.aclosing(self._router.generate(request)) as deltas:
            async for delta in deltas:
                trace = delta.trace
                yield GenerateDelta(
                    delta.tokens,
                    delta.logprobs,
                    delta.finish_reason,
                    delta.num_cached_tokens,
                    "" if trace is None else trace.kind,
                    "" if trace is None else trace.prefill_worker,
                    "" if trace is None else trace.decode_worker,
                )

    def _check_length(self, request: GenerateRequest) -> None:
        limit = self._router.snapshot().max_model_len
        num_tokens = len(request.prompt_tokens) + request.sampling.max_tokens
        if limit and num_tokens > limit:
            message = f"{num_tokens} tokens of prompt and answer, the context has {limit}"
            raise BatonError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param="max_tokens")


def _asked(call: PlaceCall) -> GenerateRequest:
    """The request as placement reads it: of tokens that did not come only the number counts."""
    prompt, hashes = call.prompt_tokens, call.block_hashes
    if prompt:
        hashes = tuple(block_hashes(prompt, call.cache_salt))
    elif not call.num_tokens:
        raise BatonError(
            ErrorCode.INVALID_REQUEST,
            "either prompt_tokens, or num_tokens with block_hashes",
            param="prompt_tokens",
        )
    elif len(hashes) > call.num_tokens // BLOCK_SIZE:
        message = f"{len(hashes)} block_hashes, {call.num_tokens} tokens fill"
        message += f" {call.num_tokens // BLOCK_SIZE} blocks of {BLOCK_SIZE}"
        raise BatonError(ErrorCode.INVALID_REQUEST, message, param="block_hashes")
    return GenerateRequest(
        call.place_id,
        prompt or (0,) * min(call.num_tokens, _MOST_TOKENS),
        SamplingParams(max_tokens=call.max_tokens),
        hashes,
        call.priority,
        call.cache_salt,
        call.terms,
    )
