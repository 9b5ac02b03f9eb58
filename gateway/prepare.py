"""From a checked body to what the router takes: prompts as tokens, sampling, stops."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from gateway import anthropic_body, responses_body
from gateway.anthropic_body import (
    CountTokensBody,
    MessagesBody,
    PromptBody,
    chat_of_messages,
    chat_of_prompt,
)
from gateway.caller import Caller
from gateway.chat_prompt import chat_prompt
from gateway.errors import ApiError, invalid, renamed
from gateway.json_body import decode_json
from gateway.message_parser import MessageStyle
from gateway.model_directory import ModelFiles
from gateway.openai import (
    ChatBody,
    CommonBody,
    CompletionBody,
    StreamOptions,
    Whole,
    decode_body,
)
from gateway.responses_body import ResponsesBody, chat_of_response
from gateway.sampling import (
    answer_limit,
    check_choices,
    check_prompt,
    check_ranges,
    check_token_ids,
    sampling_params,
    stop_strings,
)
from gateway.structured_output import GrammarChecker, asked_grammar
from gateway.tenants import Tenant
from gateway.token_pages import TokenPages
from gateway.tokenizer import Prompt, PromptEncoder, PromptTokens
from wire.messages import GenerateRequest, Grammar

MAX_PROMPTS = 128


@dataclass(frozen=True, slots=True)
class Prepared:
    """A valid request; requests: one per choice of the answer, the choices of a prompt together.

    echoes: what each choice's text begins with, where a completion repeats its prompt.
    """

    requests: tuple[GenerateRequest, ...]
    stops: tuple[str, ...]
    stop_token_ids: frozenset[int]  # they end an answer and do not show in its text
    min_tokens: int
    stream: bool
    include_usage: bool
    continuous_usage: bool = False
    num_choices: int = 1  # of each prompt
    logprobs: bool = False
    return_token_ids: bool = False
    echoes: tuple[str, ...] = ()
    style: MessageStyle | None = None  # None: the answer's text is its content
    body: ResponsesBody | MessagesBody | None = None  # where the answer repeats parts of it

    @property
    def num_prompt_tokens(self) -> int:
        """A prompt counts once, however many choices it has."""
        return sum(len(request.prompt_tokens) for request in self.requests[:: self.num_choices])

    @property
    def wants_tokens(self) -> bool:
        """The answer shows more of its tokens than their text."""
        return self.logprobs or self.return_token_ids


class TokenCount(msgspec.Struct, frozen=True):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int


class Preparer:
    """Validates bodies against one model. Raises ApiError for whatever is wrong with them."""

    def __init__(
        self, model: ModelFiles, encoder: PromptEncoder, ignores_unknown: bool = False
    ) -> None:
        """ignores_unknown: fields that no endpoint knows are left out, not refused."""
        self._model = model
        self._lenient = ignores_unknown
        self._encoder = encoder
        self._grammars = GrammarChecker(model.tokenizer, model.vocab_size, model.eos_token_ids)
        self._chat_decoder = msgspec.json.Decoder(ChatBody)
        self._completion_decoder = msgspec.json.Decoder(CompletionBody)
        self._responses_decoder = msgspec.json.Decoder(ResponsesBody)
        self._messages_decoder = msgspec.json.Decoder(MessagesBody)
        self._count_decoder = msgspec.json.Decoder(CountTokensBody)

    @property
    def token_pages(self) -> TokenPages:
        return TokenPages(self._model, self._encoder)

    async def chat(self, raw: bytes, caller: Caller) -> Prepared:
        return await self._chat(
            decode_body(self._chat_decoder, raw, ignores_unknown=self._lenient), caller
        )

    async def responses(self, raw: bytes, caller: Caller) -> Prepared:
        body = decode_json(self._responses_decoder, raw, ignores_unknown=self._lenient)
        with renamed(responses_body.FIELD_NAMES):
            prepared = await self._chat(chat_of_response(body), caller)
        return replace(prepared, body=body)

    async def messages(self, raw: bytes, caller: Caller) -> Prepared:
        body = decode_json(self._messages_decoder, raw, ignores_unknown=self._lenient)
        with renamed(anthropic_body.FIELD_NAMES):
            prepared = await self._chat(chat_of_messages(body), caller)
        return replace(prepared, body=body)

    async def count_tokens(self, raw: bytes, max_model_len: int) -> TokenCount:
        """Of a body of /v1/messages, in Anthropic's shape."""
        body = decode_json(self._count_decoder, raw, ignores_unknown=self._lenient)
        with renamed(anthropic_body.FIELD_NAMES):
            return await self._count(body)

    async def _count(self, body: PromptBody) -> TokenCount:
        chat = chat_of_prompt(body)
        self._check_model(chat.model)
        prompt = chat_prompt(chat, self._model.template)
        [encoded] = await self._encoder.encode([prompt.text], add_special_tokens=False)
        return TokenCount(len(encoded.tokens))

    async def _chat(self, body: ChatBody, caller: Caller) -> Prepared:
        self._check(body, caller.tenant)
        prompt = chat_prompt(body, self._model.template)
        salt = caller.tenant.salted(body.cache_salt or "")
        prompts = await self._encoder.encode([prompt.text], add_special_tokens=False, salt=salt)
        grammar = await self._grammar(body, prompt.call)
        prepared = self._prepared(body, prompts, body.asked_tokens, grammar, caller)
        # An answer that follows a grammar begins with it: there is no room for reasoning.
        style = prompt.style if grammar is None else replace(prompt.style, thinks=False)
        return prepared if style.is_plain else replace(prepared, style=style)

    async def completion(self, raw: bytes, caller: Caller) -> Prepared:
        body = decode_body(self._completion_decoder, raw, ignores_unknown=self._lenient)
        self._check(body, caller.tenant)
        given = _prompts(body.prompt)
        for prompt in given:
            if not isinstance(prompt, str):
                check_token_ids(prompt, self._model.vocab_size, "prompt")
        salt = caller.tenant.salted(body.cache_salt or "")
        prompts = await self._encoder.encode(given, add_special_tokens=True, salt=salt)
        grammar = await self._grammar(body)
        return self._prepared(body, prompts, body.max_tokens, grammar, caller)

    def close(self) -> None:
        self._grammars.close()

    async def _grammar(self, body: CommonBody, call: Grammar | None = None) -> Grammar | None:
        asked = asked_grammar(body, call)
        if asked is None:
            return None
        await self._grammars.check(*asked)
        return asked[0]

    def _check_model(self, name: str) -> None:
        if name != self._model.name:
            message = f"the model {name!r} does not exist; this server has {self._model.name}"
            raise ApiError(404, message, code="model_not_found", param="model")

    def _check(self, body: CommonBody, tenant: Tenant) -> None:
        self._check_model(body.model)
        if tenant.models is not None and body.model not in tenant.models:
            message = f"this API key may not use the model {body.model!r}"
            raise ApiError(403, message, code="model_not_allowed", param="model")
        check_ranges(body, self._model.vocab_size)
        ceiling = tenant.highest_priority
        if ceiling is not None and body.priority is not None and body.priority < ceiling:
            message = f"priority must be at least {ceiling} for this API key, is {body.priority}"
            raise invalid(message, "priority")

    def _prepared(
        self,
        body: CommonBody,
        prompts: Sequence[PromptTokens],
        asked: Whole,
        grammar: Grammar | None,
        caller: Caller,
    ) -> Prepared:
        field = "messages" if isinstance(body, ChatBody) else "prompt"
        defaults, tenant = self._model.defaults, caller.tenant
        num_choices = body.n or 1
        options = body.stream_options or StreamOptions()
        check_choices(len(prompts) * num_choices, caller.limits)
        requests: list[GenerateRequest] = []
        for prompt in prompts:
            if not prompt.tokens:
                raise invalid("the prompt has no tokens", field)
            check_prompt(len(prompt.tokens), caller.limits, field)
            max_tokens = answer_limit(
                len(prompt.tokens), asked, defaults.max_tokens, caller.max_model_len, field
            )
            request = GenerateRequest(
                request_id=caller.request_id,
                prompt_tokens=prompt.tokens,
                sampling=sampling_params(body, defaults, max_tokens, grammar),
                block_hashes=prompt.hashes,
                priority=tenant.own_priority if body.priority is None else body.priority,
                cache_salt=tenant.salted(body.cache_salt or ""),
                terms=caller.terms,
                traceparent=caller.traceparent,
                keep_s=caller.keep_s,
            )
            requests += _choices(request, num_choices)
        return Prepared(
            requests=_numbered(requests),
            stops=stop_strings(body),
            stop_token_ids=frozenset(body.stop_token_ids or ()) | self._eos(body),
            min_tokens=body.min_tokens or 0,
            stream=bool(body.stream),
            include_usage=options.include_usage,
            continuous_usage=options.include_usage and options.continuous_usage_stats,
            num_choices=num_choices,
            logprobs=requests[0].sampling.top_logprobs is not None,
            return_token_ids=bool(body.return_token_ids),
            echoes=self._echoes(body, requests),
        )

    def _echoes(self, body: CommonBody, requests: Sequence[GenerateRequest]) -> tuple[str, ...]:
        if not isinstance(body, CompletionBody) or not body.echo:
            return ()
        if len(requests) == 1 and isinstance(body.prompt, str):
            return (body.prompt,)
        decode = self._model.tokenizer.decode
        return tuple(decode(list(request.prompt_tokens)) for request in requests)

    def _eos(self, body: CommonBody) -> frozenset[int]:
        return frozenset() if body.ignore_eos else self._model.eos_token_ids


def _choices(request: GenerateRequest, num_choices: int) -> list[GenerateRequest]:
    """The request once a choice; each draws with a seed of its own."""
    if num_choices == 1:
        return [request]
    sampling = request.sampling
    return [
        replace(request, sampling=replace(sampling, seed=(sampling.seed + index) % 2**64))
        for index in range(num_choices)
    ]


def _numbered(requests: Sequence[GenerateRequest]) -> tuple[GenerateRequest, ...]:
    if len(requests) == 1:
        return tuple(requests)
    return tuple(
        replace(request, request_id=f"{request.request_id}-{index}")
        for index, request in enumerate(requests)
    )


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
