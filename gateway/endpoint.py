"""A generating endpoint: body in, JSON answer or server-sent events out."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from gateway.answer import AnswerSet
from gateway.body import read_body
from gateway.caller import Caller
from gateway.connection import ABORT, ON_GONE, WRITE
from gateway.errors import ApiError, ClientGone, from_baton
from gateway.gate import Gate
from gateway.generation import Generation, TokenSource
from gateway.http_reply import ErrorBody, HttpReply, openai_error
from gateway.limits import Limits
from gateway.meter import GatewayMeter, RequestMeter
from gateway.model_directory import ModelFiles
from gateway.prepare import Prepared
from gateway.replies import Replies
from gateway.request_headers import read_headers
from gateway.sse import stream_answers, whole_answers
from gateway.terms import asked_keep_s, asked_terms
from gateway.usage import Used
from runtime.clock import wall_time_s
from runtime.lifecycle import new_id
from runtime.log import get_logger
from wire.errors import BatonError, ErrorCode

_log = get_logger("gateway")

PrepareFunction = Callable[[bytes, Caller], Awaitable[Prepared]]
RepliesFactory = Callable[[str, int, ModelFiles, Prepared], Replies]


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints share; live: the generations under way."""

    model: ModelFiles
    source: TokenSource
    meter: GatewayMeter
    gate: Gate
    limits: Limits = Limits()
    live: set[Generation] = field(default_factory=set)

    @property
    def max_model_len(self) -> int:
        """The least of the model's own limit and the live workers'."""
        of_workers = self.source.snapshot().max_model_len
        return min(self.model.max_model_len, of_workers or self.model.max_model_len)

    async def write(
        self,
        generation: Generation,
        prepared: Prepared,
        answers: AnswerSet,
        replies: Replies,
        reply: HttpReply,
    ) -> None:
        """Runs the generation to its end, as one of those that are live."""
        write = stream_answers if prepared.stream else whole_answers
        async with self.running(generation):
            await write(generation, answers, replies, reply)

    @asynccontextmanager
    async def running(self, generation: Generation) -> AsyncIterator[None]:
        """Meanwhile the generation is one of those that are live; then it is ended."""
        async with generation:
            self.live.add(generation)
            try:
                yield
            finally:
                self.live.discard(generation)

    def used(self, request_id: str, prepared: Prepared, answers: AnswerSet) -> Used:
        """What a request took, once its generation has ended in whatever way."""
        traces = [self.source.trace(request.request_id) for request in prepared.requests]
        return Used(
            request_id=request_id,
            model=self.model.name,
            num_prompt_tokens=answers.num_prompt_tokens,
            num_cached_tokens=answers.num_cached_tokens,
            num_output_tokens=answers.num_output_tokens,
            traces=[trace for trace in traces if trace is not None],
        )

    def fail_all(self) -> None:
        """Ends what is under way with an error that asks the clients to try again."""
        for generation in self.live:
            message = "the gateway is shutting down"
            generation.fail(BatonError(ErrorCode.DRAINING, message, retry_after_s=1.0))


class GenerateEndpoint:
    """An ASGI application for one path; it holds no state of single requests."""

    def __init__(
        self,
        name: str,
        id_prefix: str,
        prepare: PrepareFunction,
        replies: RepliesFactory,
        services: Services,
        error_body: ErrorBody = openai_error,
    ) -> None:
        """name: the endpoint's label in the metrics. error_body: of a failure."""
        self._error_body = error_body
        self._name = name
        self._id_prefix = id_prefix
        self._prepare = prepare
        self._replies = replies
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id(self._id_prefix)
        meter = self._services.meter.open(self._name)
        write = scope.get("extensions", {}).pop(WRITE, None)  # it has the scope: no cycle is left
        reply = HttpReply(send, request_id, self._error_body, write)
        outcome = "cancelled"
        try:
            outcome = await self._answer(request_id, scope, receive, reply, meter)
        finally:
            meter.end(outcome)

    async def _answer(
        self,
        request_id: str,
        scope: Scope,
        receive: Receive,
        reply: HttpReply,
        meter: RequestMeter,
    ) -> str:
        """Gives the outcome; every failure is answered here."""
        try:
            await self._serve(request_id, scope, receive, reply, meter)
            return "ok"
        except ClientGone:
            return "disconnected"
        except ApiError as error:
            failure = error.with_traceback(None)  # which has this frame, which has the failure
        except BatonError as error:
            failure = from_baton(error)
        except Exception:  # the request's edge: our bug fails this request, and no other
            _log.exception("a request failed inside the gateway", request_id=request_id)
            failure = ApiError(500, "internal error", code=ErrorCode.INTERNAL.value)
        if failure.status >= 500:
            _log.warning("request failed", request_id=request_id, reason=failure.message)
        await reply.fail(failure)
        return failure.code or ErrorCode.INVALID_REQUEST.value

    async def _serve(
        self,
        request_id: str,
        scope: Scope,
        receive: Receive,
        reply: HttpReply,
        meter: RequestMeter,
    ) -> None:
        services = self._services
        headers = read_headers(scope["headers"])
        reply.answer_to(headers)
        account = services.gate.account(scope["headers"])
        account.take_request()
        raw = await read_body(
            receive,
            scope["headers"],
            services.limits.max_body_bytes,
            services.limits.body_timeout_s,
        )
        caller = Caller(
            request_id=request_id,
            max_model_len=services.max_model_len,
            limits=services.limits,
            tenant=account.tenant,
            terms=asked_terms(scope["headers"], account.tenant, services.model.name),
            traceparent=meter.trace(request_id, headers.traceparent),
            keep_s=asked_keep_s(scope["headers"]),
        )
        prepared = await self._prepare(raw, caller)
        account.take_prompt(prepared.num_prompt_tokens)
        reply.headers += account.headers
        meter.accept(prepared.num_prompt_tokens, account)
        replies = self._replies(request_id, int(wall_time_s()), services.model, prepared)
        reply.failed_stream = replies.failure
        answers = AnswerSet(prepared, services.model.detokenizers, meter)
        extensions = scope.get("extensions", {})
        generation = Generation(
            services.source,
            prepared.requests,
            receive,
            services.limits,
            extensions.get(ABORT),
            extensions.get(ON_GONE),
        )
        try:
            await services.write(generation, prepared, answers, replies, reply)
        finally:
            meter.used(services.used(request_id, prepared, answers))
