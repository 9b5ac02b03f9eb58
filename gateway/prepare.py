"""From a checked body to what the router takes: prompts as tokens, sampling, stops."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.chat_template import Message as TemplateMessage
from gateway.errors import ApiError, invalid
from gateway.model_directory import ModelFiles
from gateway.openai import ChatBody, CommonBody, CompletionBody, Message, decode_body
from gateway.sampling import (
    answer_limit,
    check_ranges,
    check_token_ids,
    sampling_params,
    stop_strings,
)
from gateway.tokenizer import Prompt, PromptEncoder, PromptTokens
from wire.messages import GenerateRequest

MAX_PROMPTS = 128
ROLES = ("system", "user", "assistant", "tool", "developer")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A valid request; requests: one per prompt, in the order of the answer's choices."""

    requests: tuple[GenerateRequest, ...]
    stops: tuple[str, ...]
    stop_token_ids: frozenset[int]  # they end an answer and do not show in its text
    min_tokens: int
    stream: bool
    include_usage: bool

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(request.prompt_tokens) for request in self.requests)


class Preparer:
    """Validates bodies against one model. Raises ApiError for whatever is wrong with them."""

    def __init__(self, model: ModelFiles, encoder: PromptEncoder) -> None:
        self._model = model
        self._encoder = encoder
        self._chat_decoder = msgspec.json.Decoder(ChatBody)
        self._completion_decoder = msgspec.json.Decoder(CompletionBody)

    async def chat(self, raw: bytes, request_id: str, max_model_len: int) -> Prepared:
        body = decode_body(self._chat_decoder, raw)
        self._check(body)
        template = self._model.template
        if template is None:
            message = "the model has no chat template; use /v1/completions"
            raise invalid(message, "messages", "no_chat_template")
        text = template.render(_template_messages(body.messages))
        prompts = await self._encoder.encode(
            [text], add_special_tokens=False, salt=body.cache_salt or ""
        )
        asked = body.max_completion_tokens or body.max_tokens
        return self._prepared(body, prompts, asked, request_id, max_model_len)

    async def completion(self, raw: bytes, request_id: str, max_model_len: int) -> Prepared:
        body = decode_body(self._completion_decoder, raw)
        self._check(body)
        given = _prompts(body.prompt)
        for prompt in given:
            if not isinstance(prompt, str):
                check_token_ids(prompt, self._model.vocab_size, "prompt")
        prompts = await self._encoder.encode(
            given, add_special_tokens=True, salt=body.cache_salt or ""
        )
        return self._prepared(body, prompts, body.max_tokens, request_id, max_model_len)

    def _check(self, body: CommonBody) -> None:
        if body.model != self._model.name:
            message = f"the model {body.model!r} does not exist; this server has {self._model.name}"
            raise ApiError(404, message, code="model_not_found", param="model")
        check_ranges(body, self._model.vocab_size)

    def _prepared(
        self,
        body: CommonBody,
        prompts: Sequence[PromptTokens],
        asked: int | None,
        request_id: str,
        max_model_len: int,
    ) -> Prepared:
        field = "messages" if isinstance(body, ChatBody) else "prompt"
        requests = []
        for index, prompt in enumerate(prompts):
            if not prompt.tokens:
                raise invalid("the prompt has no tokens", field)
            max_tokens = answer_limit(len(prompt.tokens), asked, max_model_len, field)
            requests.append(
                GenerateRequest(
                    request_id=request_id if len(prompts) == 1 else f"{request_id}-{index}",
                    prompt_tokens=prompt.tokens,
                    sampling=sampling_params(body, self._model.defaults, max_tokens),
                    block_hashes=prompt.hashes,
                    priority=body.priority or 0,
                    cache_salt=body.cache_salt or "",
                )
            )
        return Prepared(
            requests=tuple(requests),
            stops=stop_strings(body),
            stop_token_ids=frozenset(body.stop_token_ids or ()) | self._eos(body),
            min_tokens=body.min_tokens or 0,
            stream=bool(body.stream),
            include_usage=body.stream_options is not None and body.stream_options.include_usage,
        )

    def _eos(self, body: CommonBody) -> frozenset[int]:
        return frozenset() if body.ignore_eos else self._model.eos_token_ids


def _prompts(prompt: str | list[str | int | list[int]]) -> list[Prompt]:
    """A prompt field is a string, strings, token ids, or lists of token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise invalid("prompt must not be empty", "prompt")
    token_ids = tuple(item for item in prompt if isinstance(item, int))
    if len(token_ids) == len(prompt):
        return [token_ids]
    if len(prompt) > MAX_PROMPTS:
        raise invalid(f"prompt has {len(prompt)} prompts, at most {MAX_PROMPTS} go", "prompt")
    texts: list[Prompt] = [item for item in prompt if isinstance(item, str)]
    lists: list[Prompt] = [tuple(item) for item in prompt if isinstance(item, list)]
    for prompts in (texts, lists):
        if len(prompts) == len(prompt):
            return prompts
    message = "prompt must be all strings, all token ids, or all lists of token ids"
    raise invalid(message, "prompt", "invalid_type")


def _template_messages(messages: Sequence[Message]) -> list[TemplateMessage]:
    if not messages:
        raise invalid("messages must have at least one message", "messages")
    return [_template_message(index, message) for index, message in enumerate(messages)]


def _template_message(index: int, message: Message) -> TemplateMessage:
    if message.role not in ROLES:
        reason = f"must be one of {', '.join(ROLES)}, is {message.role!r}"
        raise invalid(f"messages[{index}].role {reason}", f"messages[{index}].role")
    fields: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _content_text(index, message),
    }
    for name in ("name", "tool_calls", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            fields[name] = value
    return fields


def _content_text(index: int, message: Message) -> str:
    """Text parts are joined by line ends, as models' templates see one string."""
    content = message.content
    if isinstance(content, str):
        return content
    where = f"messages[{index}].content"
    if content is None:
        if message.role == "assistant" and message.tool_calls:
            return ""
        raise invalid(f"{where} must be a string or a list of text parts, is null", where)
    for part in content:
        if part.type != "text" or part.text is None:
            reason = f"a part of type {part.type!r} is not supported, only 'text' with a text"
            raise invalid(f"{where}: {reason}", where)
    return "\n".join(part.text or "" for part in content)
