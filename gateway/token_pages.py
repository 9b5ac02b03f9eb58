"""/tokenize and /detokenize: a prompt as the model sees it, and back."""

from typing import TypeVar

import msgspec

from gateway.chat_prompt import chat_prompt
from gateway.errors import ApiError, invalid
from gateway.json_body import decode_json
from gateway.model_directory import ModelFiles
from gateway.openai import ChatBody, Message, Tool
from gateway.sampling import check_token_ids
from gateway.tokenizer import PromptEncoder

B = TypeVar("B", bound=msgspec.Struct)


class TokenizeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /tokenize: of a prompt, or of messages with the model's chat format.

    add_special_tokens: on for a prompt and off for messages, whose format has them, unless given.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeReply(msgspec.Struct, frozen=True):
    count: int
    max_model_len: int
    tokens: tuple[int, ...]
    token_strs: list[str] | None = None


class DetokenizeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /detokenize"""

    tokens: list[int]
    model: str | None = None


class DetokenizeReply(msgspec.Struct, frozen=True):
    prompt: str


class TokenPages:
    """Both raise ApiError for what is wrong with a body."""

    def __init__(self, model: ModelFiles, encoder: PromptEncoder) -> None:
        self._model = model
        self._encoder = encoder
        self._tokenize = msgspec.json.Decoder(TokenizeBody)
        self._detokenize = msgspec.json.Decoder(DetokenizeBody)

    async def tokenize(self, raw: bytes, max_model_len: int) -> TokenizeReply:
        body = decode_json(self._tokenize, raw)
        self._check_model(body.model)
        text = self._text(body)
        special = body.add_special_tokens
        [encoded] = await self._encoder.encode(
            [text], add_special_tokens=body.messages is None if special is None else special
        )
        texts = None
        if body.return_token_strs:
            texts = [self._model.detokenizers.token_text(token) for token in encoded.tokens]
        return TokenizeReply(len(encoded.tokens), max_model_len, encoded.tokens, texts)

    async def detokenize(self, raw: bytes, max_model_len: int) -> DetokenizeReply:
        body = decode_json(self._detokenize, raw)
        self._check_model(body.model)
        check_token_ids(body.tokens, self._model.vocab_size, "tokens")
        decode = self._model.tokenizer.decode
        return DetokenizeReply(decode(body.tokens, skip_special_tokens=False))

    def _text(self, body: TokenizeBody) -> str:
        if body.messages is None and body.prompt is not None:
            return body.prompt
        if body.messages is None or body.prompt is not None:
            raise invalid("one of prompt and messages must be given", "prompt")
        asked = ChatBody(model=self._model.name, messages=body.messages, tools=body.tools)
        return chat_prompt(asked, self._model.template).text

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self._model.name):
            message = f"the model {name!r} does not exist; this server has {self._model.name}"
            raise ApiError(404, message, code="model_not_found", param="model")
