"""OpenAI's request bodies: which fields exist and their types; ranges are sampling.py's."""

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gateway.errors import invalid
from gateway.json_body import decode_json

B = TypeVar("B", bound="CommonBody")


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # with include_usage: every event has usage so far
    include_obfuscation: bool | None = None  # padding against traffic analysis: never sent


class NamedSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """strict: accepted; the answer follows the schema in any case."""

    name: str
    schema: Any = True
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    json_schema: NamedSchema | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of them; grammar is Lark or GBNF."""

    json: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class ContentPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of an earlier answer; a client may send it back with its index in the stream."""

    function: FunctionCall
    id: str | None = None
    type: str | None = None
    index: int | None = None


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """strict: accepted; arguments follow the schema wherever tool_choice forces a call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    function: Function


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NamedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    function: FunctionName


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of a conversation; a client may send back an answer's message as it got it."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    function_call: Any = None


# UNSET: left out, the server's default applies; None: the client wants none of it.
Real = float | None | UnsetType
Whole = int | None | UnsetType


class SharedBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of every endpoint that generates.

    Those that a server may have defaults for tell null from left out; of the others both are None.
    """

    model: str
    temperature: Real = UNSET
    top_p: Real = UNSET
    top_k: Whole = UNSET
    min_p: Real = UNSET
    stop_token_ids: list[int] | None = None
    seed: int | None = None
    presence_penalty: Real = UNSET
    frequency_penalty: Real = UNSET
    repetition_penalty: Real = UNSET
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    logit_bias: dict[str, float] | None = None


class CommonBody(SharedBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields that OpenAI's chats and completions share."""

    max_tokens: Whole = UNSET
    n: int | None = None
    stop: str | list[str] | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    return_token_ids: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class ChatBody(CommonBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions"""

    messages: list[Message]
    max_completion_tokens: Whole = UNSET
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def asked_tokens(self) -> Whole:
        """A limit goes before none, and none before a field that is left out."""
        if isinstance(self.max_completion_tokens, int):
            return self.max_completion_tokens
        return self.max_completion_tokens if self.max_tokens is UNSET else self.max_tokens


class ChatFields(SharedBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of the endpoints that translate their body to a ChatBody."""

    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def shared(self) -> dict[str, Any]:
        """The fields that a ChatBody has under the same names."""
        return {field: getattr(self, field) for field in ChatFields.__struct_fields__}


class CompletionBody(CommonBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions"""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    best_of: int | None = None


def decode_body(
    decoder: "msgspec.json.Decoder[B]", body: bytes, *, ignores_unknown: bool = False
) -> B:
    """As decode_json; and refuses what is known and not served."""
    decoded = decode_json(decoder, body, ignores_unknown=ignores_unknown)
    _refuse_unsupported(decoded)
    return decoded


def _refuse_unsupported(body: CommonBody) -> None:
    """Known fields that would change the answer and that nothing here acts on yet."""
    for field in _UNSUPPORTED:
        value = getattr(body, field, None)
        if value is not None and value is not False and value not in ([], {}, ""):
            raise invalid(f"{field} is not supported", field, "unsupported_field")
    best_of = getattr(body, "best_of", None)
    if best_of not in (None, body.n or 1):
        raise invalid("best_of must be n: choosing among more answers is not supported", "best_of")
    if getattr(body, "echo", None) and body_logprobs(body) is not None:
        message = "echo with logprobs is not supported: prompts have no log-probabilities here"
        raise invalid(message, "echo", "unsupported_field")


def body_logprobs(body: CommonBody) -> int | None:
    """How many of the likeliest tokens go with each token's log-probability; None: none at all.

    Raises ApiError 400 for a chat's top_logprobs without logprobs.
    """
    asked = getattr(body, "logprobs", None)
    if not isinstance(body, ChatBody):
        return asked
    if not asked and body.top_logprobs is not None:
        raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
    return (body.top_logprobs or 0) if asked else None


_UNSUPPORTED = ("suffix",)
