"""The answers of /v1/responses: one response object, whole or as it comes about."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Piece
from gateway.answer_deltas import AnswerDeltas
from gateway.errors import ApiError
from gateway.model_directory import ModelFiles
from gateway.prepare import Prepared
from gateway.replies import Stages, Usage
from gateway.responses_body import ReasoningOptions, ResponsesBody, TextForm, TextOptions
from gateway.responses_events import (
    ErrorEvent,
    Incomplete,
    InputDetails,
    OutputDetails,
    Response,
    ResponseCompleted,
    ResponseCreated,
    ResponseError,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    ResponseUsage,
    TextConfig,
)
from gateway.responses_output import ResponseOutput
from runtime.lifecycle import new_id
from wire.errors import ErrorCode


class ResponsesReplies:
    """/v1/responses"""

    def __init__(
        self, request_id: str, created: int, model: ModelFiles, prepared: Prepared
    ) -> None:
        assert isinstance(prepared.body, ResponsesBody)
        self.usage: Usage | None | UnsetType = UNSET
        self._deltas = AnswerDeltas(prepared.style)
        self._output = ResponseOutput(new_id)
        self._finish_reason: str | None = None
        self._response = _opened(request_id, created, model.name, prepared, prepared.body)

    def opening(self, index: int) -> bytes:
        events = self._output.event(ResponseCreated, response=self._response)
        return events + self._output.event(ResponseInProgress, response=self._response)

    def piece(self, piece: Piece) -> bytes:
        _, text, finish_reason, _, _ = piece
        deltas, self._finish_reason = self._deltas.push(text, finish_reason)
        events = [self._output.take(delta) for delta in deltas]
        if finish_reason is not None:
            events.append(self._output.close("incomplete" if self._is_cut_off else "completed"))
        return b"".join(events)

    def ending(self, usage: Usage, stages: Stages | UnsetType) -> bytes:
        kind = ResponseIncomplete if self._is_cut_off else ResponseCompleted
        return self._output.event(kind, response=self._ended(usage))

    def whole(self, choices: Sequence[Piece], usage: Usage) -> bytes:
        self.piece(choices[0])
        return msgspec.json.encode(self._ended(usage))

    def failure(self, error: ApiError) -> bytes:
        """The error by itself, and the response that it ended."""
        code = error.code or ErrorCode.INTERNAL.value
        failed = msgspec.structs.replace(
            self._response,
            status="failed",
            output=tuple(self._output.items),
            error=ResponseError(_failed_code(error.status), error.message),
        )
        events = self._output.event(ErrorEvent, code=code, message=error.message, param=error.param)
        return events + self._output.event(ResponseFailed, response=failed)

    @property
    def _is_cut_off(self) -> bool:
        return self._finish_reason == "length"

    def _ended(self, usage: Usage) -> Response:
        is_cut_off = self._is_cut_off
        return msgspec.structs.replace(
            self._response,
            status="incomplete" if is_cut_off else "completed",
            output=tuple(self._output.items),
            incomplete_details=Incomplete("max_output_tokens") if is_cut_off else None,
            usage=ResponseUsage(
                input_tokens=usage.prompt_tokens,
                input_tokens_details=InputDetails(usage.prompt_tokens_details.cached_tokens),
                output_tokens=usage.completion_tokens,
                output_tokens_details=OutputDetails(),
                total_tokens=usage.total_tokens,
            ),
        )


def _opened(
    request_id: str, created: int, model: str, prepared: Prepared, body: ResponsesBody
) -> Response:
    """The response before its first item, with the request's fields as they count."""
    sampling = prepared.requests[0].sampling
    return Response(
        id=request_id,
        created_at=created,
        status="in_progress",
        model=model,
        output=(),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens or None,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning=body.reasoning or ReasoningOptions(),
        temperature=sampling.temperature,
        text=TextConfig((body.text or TextOptions()).format or TextForm("text")),
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_p=sampling.top_p,
        user=body.user,
    )


def _failed_code(status: int) -> str:
    """A response knows OpenAI's own codes alone; the event before it has ours."""
    if status == 429:
        return "rate_limit_exceeded"
    return "server_error" if status >= 500 else "invalid_prompt"
