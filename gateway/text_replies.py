"""The response bodies of /v1/completions."""

from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Piece
from gateway.errors import ApiError
from gateway.model_directory import ModelFiles
from gateway.prepare import Prepared
from gateway.replies import DONE, Stages, TextEvents, Usage, event, failed_stream
from gateway.token_details import LogprobWriter, TextLogprobs, TokenDetails


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    finish_reason: str | None
    logprobs: TextLogprobs | None = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET


class TextReply(msgspec.Struct, frozen=True, tag_field="object", tag="text_completion"):
    """An answer of /v1/completions, and also each chunk of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None | UnsetType = UNSET
    baton: Stages | UnsetType = UNSET


class TextReplies:
    """/v1/completions"""

    def __init__(
        self, request_id: str, created: int, model: ModelFiles, prepared: Prepared
    ) -> None:
        self._id = request_id
        self._created = created
        self._model = model.name
        self._prepared = prepared
        self.usage: Usage | None | UnsetType = None if prepared.include_usage else UNSET
        self._logprobs = LogprobWriter(model.detokenizers)
        self._events: dict[int, TextEvents] = {}

    def opening(self, index: int) -> bytes:
        """The prompt, where it is repeated or its tokens are shown."""
        prepared = self._prepared
        if not prepared.echoes and not prepared.return_token_ids:
            return b""
        ids = prepared.requests[index].prompt_tokens if prepared.return_token_ids else UNSET
        choice = TextChoice(index, self._echo(index), None, prompt_token_ids=ids)
        return event(self._reply([choice], self.usage))

    def piece(self, piece: Piece) -> bytes:
        index, text, finish_reason, details, _ = piece
        if finish_reason is None and not details:
            return self._text(index, text) if text else b""
        choice = self._choice(index, text, finish_reason, details)
        return event(self._reply([choice], self.usage))

    def _text(self, index: int, text: str) -> bytes:
        """An event that has a text and nothing else that is new."""
        if self.usage:
            return self._text_event(index, text)
        events = self._events.get(index)
        if events is None:
            events = self._events[index] = TextEvents(partial(self._text_event, index))
        return events.event(text)

    def _text_event(self, index: int, text: str) -> bytes:
        return event(self._reply([TextChoice(index, text, None)], self.usage))

    def ending(self, usage: Usage, stages: Stages | UnsetType) -> bytes:
        if not self._prepared.include_usage:
            return DONE
        return event(TextReply(self._id, self._created, self._model, [], usage, stages)) + DONE

    def failure(self, error: ApiError) -> bytes:
        return failed_stream(error)

    def whole(self, choices: Sequence[Piece], usage: Usage) -> bytes:
        listed = [
            self._choice(index, self._echo(index) + text, finish_reason, details, is_whole=True)
            for index, text, finish_reason, details, _ in choices
        ]
        return msgspec.json.encode(self._reply(listed, usage))

    def _echo(self, index: int) -> str:
        return self._prepared.echoes[index] if self._prepared.echoes else ""

    def _choice(
        self,
        index: int,
        text: str,
        finish_reason: str | None,
        details: TokenDetails | None,
        *,
        is_whole: bool = False,
    ) -> TextChoice:
        if details is None:
            return TextChoice(index, text, finish_reason)
        prepared = self._prepared
        logprobs = self._logprobs.text(index, details) if prepared.logprobs else None
        if not prepared.return_token_ids:
            return TextChoice(index, text, finish_reason, logprobs)
        prompt_ids = prepared.requests[index].prompt_tokens if is_whole else UNSET
        return TextChoice(index, text, finish_reason, logprobs, details.tokens, prompt_ids)

    def _reply(self, choices: list[TextChoice], usage: Usage | None | UnsetType) -> TextReply:
        return TextReply(self._id, self._created, self._model, choices, usage=usage)
