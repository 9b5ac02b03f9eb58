"""One completion for a gRPC call: what HTTP checks, counts and limits, without its bytes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.answer import AnswerSet, Piece
from gateway.caller import Caller
from gateway.endpoint import Services
from gateway.errors import ApiError, from_baton
from gateway.generation import Generation
from gateway.grpc_errors import abort
from gateway.meter import RequestMeter
from gateway.prepare import Prepared, Preparer
from gateway.request_headers import read_headers
from gateway.terms import asked_keep_s, asked_terms
from router.output import RequestTrace
from runtime.lifecycle import new_id
from runtime.log import get_logger
from wire.errors import BatonError, ErrorCode

_log = get_logger("gateway")
_Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Answered:
    """Pieces of an answer that go into one message; the usage goes with the last ones.

    trace: of the answer that ended last, absent where a stop string ended it.
    """

    pieces: list[Piece]
    prepared: Prepared
    answers: AnswerSet
    is_last: bool

    @property
    def trace(self) -> RequestTrace | None:
        return self.answers.trace if self.is_last else None


Write = Callable[[Answered], Awaitable[None]]
Body = Callable[[], Mapping[str, object]]


class GrpcCalls:
    """Runs calls over the services of the gateway; holds no state of single calls."""

    def __init__(self, services: Services, preparer: Preparer) -> None:
        self.services = services
        self._preparer = preparer

    def check_key(self, context: Any) -> None:
        """Raises ApiError 401 without the key of a tenant."""
        self.services.gate.account(headers_of(context))

    async def run(self, name: str, context: Any, body: Body, write: Write) -> None:
        """Answers one call; a failure becomes the call's status.

        name: the endpoint's label in the metrics. body: the fields of a body of /v1/completions;
        may raise ApiError. write: sends what has come.
        """
        try:
            await self.answer(name, context, body, write)
        except ApiError as error:
            await abort(context, error)

    async def answer(self, name: str, context: Any, body: Body, write: Write) -> None:
        """As run; raises ApiError for whatever goes wrong. A cancelled call ends here, too."""
        request_id = new_id("cmpl")
        meter = self.services.meter.open(name)
        outcome = "cancelled"
        try:
            await self._serve(request_id, headers_of(context), body, write, meter)
            outcome = "ok"
        except (ApiError, BatonError) as error:
            failure = from_baton(error) if isinstance(error, BatonError) else error
            outcome = failure.code or ErrorCode.INVALID_REQUEST.value
            raise failure from error
        except Exception as error:  # the call's edge: our bug fails this call, and no other
            _log.exception("a call failed inside the gateway", request_id=request_id)
            outcome = ErrorCode.INTERNAL.value
            raise ApiError(500, "internal error", code=outcome) from error
        finally:
            meter.end(outcome)

    async def _serve(
        self, request_id: str, headers: _Headers, body: Body, write: Write, meter: RequestMeter
    ) -> None:
        services = self.services
        account = services.gate.account(headers)
        account.take_request()
        caller = Caller(
            request_id=request_id,
            max_model_len=services.max_model_len,
            limits=services.limits,
            tenant=account.tenant,
            terms=asked_terms(headers, account.tenant, services.model.name),
            traceparent=meter.trace(request_id, read_headers(headers).traceparent),
            keep_s=asked_keep_s(headers),
        )
        prepared = await self._preparer.completion(msgspec.json.encode(body()), caller)
        account.take_prompt(prepared.num_prompt_tokens)
        meter.accept(prepared.num_prompt_tokens, account)
        answers = AnswerSet(prepared, services.model.detokenizers, meter)
        patience = _Patience(services.limits.stall_timeout_s)
        generation = Generation(
            services.source, prepared.requests, None, services.limits, patience.end
        )
        try:
            async with services.running(generation):
                await _pass_on(generation, prepared, answers, write, patience)
        finally:
            meter.used(services.used(request_id, prepared, answers))


class _Patience:
    """Bounds the time that a client may leave a message lying; end() ends it at once."""

    def __init__(self, stall_timeout_s: float) -> None:
        self._limit_s = stall_timeout_s or None
        self._timeout: asyncio.Timeout | None = None

    async def bear(self, writing: Awaitable[None]) -> None:
        """Raises ApiError 408 for a client that does not read."""
        try:
            async with asyncio.timeout(self._limit_s) as self._timeout:
                await writing
        except TimeoutError as error:
            raise ApiError(408, "the client does not read", code="stalled") from error
        finally:
            self._timeout = None

    def end(self) -> None:
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())


async def _pass_on(
    generation: Generation,
    prepared: Prepared,
    answers: AnswerSet,
    write: Write,
    patience: _Patience,
) -> None:
    """One message for all tokens that wait."""
    while not answers.are_finished:
        pieces = answers.feed(await generation.take())
        for piece in pieces:
            if piece[2] is not None:
                generation.end(piece[0])
        is_last = answers.are_finished
        shown = [piece for piece in pieces if piece[1] or piece[2] is not None or piece[3]]
        if shown or is_last:
            await patience.bear(write(Answered(shown, prepared, answers, is_last)))


def headers_of(context: Any) -> _Headers:
    """A call's metadata as HTTP has its headers; binary entries are nobody's here."""
    return [
        (key.encode(), value.encode())
        for key, value in context.invocation_metadata() or ()
        if isinstance(value, str)
    ]
