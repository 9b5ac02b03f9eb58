"""The table of fields in docs/http.md: what each cell says is what the server does.

A cell is what happens in a word or two, then, in brackets, other values: none (`""`: 400).
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToJson

from gateway.anthropic_body import MessagesBody
from gateway.model_directory import ModelFiles
from gateway.openai import ChatBody, CompletionBody, StreamOptions
from gateway.responses_body import ResponsesBody
from gateway.sampling_defaults import own_defaults
from router.output import OutputDelta
from wire.gen import generate_pb2, generate_pb2_grpc
from wire.messages import GenerateRequest, TokenLogprobs

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
OMITTED = object()
TURN = [{"role": "user", "content": "Hello"}]
TEMPLATE = (
    "{% if tools %}TOOLS{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% endfor %}{{ mood | default('') }}{{ enable_thinking | default('') }}<tool_call>"
)
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CHAT_TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}
RESPONSE_TOOLS = {"tools": [{"type": "function", **FUNCTION}]}
CLAUDE_TOOLS = {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}
DEFAULTS = {
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.05,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "repetition_penalty": 1.1,
    "max_tokens": 50,
}
ENDPOINTS: dict[str, tuple[str, type, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", ChatBody, {"messages": TURN}),
    "completions": ("/v1/completions", CompletionBody, {"prompt": "Hello"}),
    "responses": ("/v1/responses", ResponsesBody, {"input": "Hello"}),
    "messages": ("/v1/messages", MessagesBody, {"messages": TURN, "max_tokens": 9}),
}


@dataclass(frozen=True)
class Seen:
    """What the router got of a request that was taken, and what the client got.

    plain: what the router got where the field is left out.
    """

    requests: Sequence[GenerateRequest]
    plain: Sequence[GenerateRequest]
    answer: httpx.Response
    prompt: str

    @property
    def sampling(self) -> Any:
        return self.requests[0].sampling

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line[6:] for line in self.answer.text.split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"] or [self.answer.json()]

    def says(self, field: str) -> bool:
        """Whether a choice of the answer has the field, with a value."""
        return f'"{field}":' in self.answer.text.replace(f'"{field}":null', "")


Look = Callable[[Seen], str]


def number(field: str, *, zero: str = "0") -> Look:
    def look(seen: Seen) -> str:
        value = getattr(seen.sampling, field)
        if value == DEFAULTS.get(field):
            return "default"
        return f"{value:g}" if value else zero

    return look


def answer_limit(seen: Seen) -> str:
    room = 256 - len(seen.requests[0].prompt_tokens)
    return "the context" if seen.sampling.max_tokens == room else number("max_tokens")(seen)


def switch(field: str, yes: str = "yes", no: str = "no") -> Look:
    return lambda seen: yes if getattr(seen.sampling, field) else no


def usage(seen: Seen) -> str:
    with_usage = [event for event in seen.events if event.get("usage")]
    if len(with_usage) > 1:
        return "in every event"
    return "at the end" if with_usage else "no usage"


def grammar(seen: Seen) -> str:
    found = seen.sampling.grammar
    return "none" if found is None else {"": "an empty answer", "{}": "any JSON"}[found.text]


def drawn_seed(seen: Seen) -> str:
    return "random" if seen.sampling.seed > 2**20 else str(seen.sampling.seed)


def ending(seen: Seen) -> str:
    """The answer's text would be cut at an empty stop."""
    ids = seen.sampling.stop_token_ids
    return "none" if "two" in seen.answer.text and not ids else "some"


def in_prompt(mark: str) -> Look:
    return lambda seen: "some" if mark in seen.prompt else "none"


def system(seen: Seen) -> str:
    return "an empty one" if "[system]" in seen.prompt else "none"


def calls(seen: Seen) -> str:
    text = seen.sampling.grammar.text
    return "several" if ")*" in text.split("\n")[0] else "one"


def choice(seen: Seen) -> str:
    return "auto" if "TOOLS" in seen.prompt and seen.sampling.grammar is None else "other"


def ignored(seen: Seen) -> str:
    """Prompt and sampling are those of a request that leaves the field out."""
    own, plain = seen.requests[0], seen.plain[0]
    assert own.prompt_tokens == plain.prompt_tokens
    assert replace(own.sampling, seed=0) == replace(plain.sampling, seed=0)
    return "ignored"


@dataclass(frozen=True)
class Probe:
    """How to see what a field does. beside: of the body, so that it can be seen at all.

    zero, empty: of the field's own type; a value of another type is a 400.
    """

    look: Look
    zero: Any = 0
    empty: Any = ()
    beside: Callable[[str], dict[str, Any]] = lambda _: {}


def with_tools(endpoint: str) -> dict[str, Any]:
    tools = {"chat": CHAT_TOOLS, "responses": RESPONSE_TOOLS, "messages": CLAUDE_TOOLS}
    return tools[endpoint]


def forced(endpoint: str) -> dict[str, Any]:
    return {**with_tools(endpoint), "tool_choice": "required"}


def streamed(endpoint: str) -> dict[str, Any]:
    return {"stream": True}


def with_logprobs(endpoint: str) -> dict[str, Any]:
    return {"logprobs": True}


LABEL = Probe(ignored, empty="")
NEVER = Probe(lambda _: "taken")
PROBES: dict[str, Probe] = {
    "model": Probe(lambda _: "taken", empty=""),
    "messages": NEVER,
    "prompt": NEVER,
    "input": NEVER,
    **{name: Probe(number(name)) for name in DEFAULTS if name not in ("top_k", "min_p")},
    "top_k": Probe(number("top_k", zero="off")),
    "min_p": Probe(number("min_p", zero="off")),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), Probe(answer_limit)),
    "max_output_tokens": Probe(answer_limit),
    "min_tokens": Probe(number("min_tokens")),
    "seed": Probe(drawn_seed),
    "n": Probe(lambda seen: str(len(seen.requests))),
    "best_of": Probe(lambda seen: str(len(seen.requests))),
    "stop": Probe(ending),
    "stop_sequences": Probe(ending),
    "stop_token_ids": Probe(ending),
    "ignore_eos": Probe(switch("ignore_eos"), zero=False),
    "logit_bias": Probe(switch("logit_bias", "some", "none"), empty={}),
    "stream": Probe(lambda seen: "yes" if len(seen.events) > 1 else "no", zero=False),
    "stream_options": Probe(usage, empty={}, beside=streamed),
    "stream_options.include_usage": Probe(usage, zero=False, beside=streamed),
    "stream_options.continuous_usage_stats": Probe(usage, zero=False, beside=streamed),
    "stream_options.include_obfuscation": Probe(usage, zero=False, beside=streamed),
    "priority": Probe(lambda seen: str(seen.requests[0].priority)),
    "cache_salt": Probe(lambda seen: seen.requests[0].cache_salt or "none", empty=""),
    "user": LABEL,
    "metadata": Probe(ignored, empty={}),
    "store": Probe(ignored, zero=False),
    **dict.fromkeys(("safety_identifier", "prompt_cache_key", "service_tier"), LABEL),
    "prompt_cache_retention": LABEL,
    "cache_control": Probe(ignored, empty={}),
    "truncation": LABEL,
    "include": Probe(ignored),
    "max_tool_calls": Probe(ignored),
    **dict.fromkeys(("previous_response_id", "conversation"), LABEL),
    "background": Probe(ignored, zero=False),
    "return_token_ids": Probe(lambda s: "yes" if s.says("token_ids") else "no", zero=False),
    "response_format": Probe(grammar, empty={}),
    "structured_outputs": Probe(grammar, empty={}),
    "guided_json": Probe(grammar, empty={}),
    "guided_regex": Probe(grammar, empty=""),
    "guided_choice": Probe(grammar),
    "guided_grammar": Probe(grammar, empty=""),
    "text": Probe(grammar, empty={}),
    "echo": Probe(lambda seen: "yes" if "Hello" in seen.answer.text else "no", zero=False),
    "suffix": LABEL,
    "tools": Probe(in_prompt("TOOLS")),
    "tool_choice": Probe(choice, empty="", beside=with_tools),
    "parallel_tool_calls": Probe(calls, zero=False, beside=forced),
    "chat_template_kwargs": Probe(in_prompt("glad"), empty={}),
    "reasoning": Probe(in_prompt("True"), empty={}),
    "thinking": Probe(in_prompt("True"), empty={}),
    "instructions": Probe(system, empty=""),
    "system": Probe(system),
}
OF_ENDPOINT: dict[tuple[str, str], Probe] = {
    ("chat", "logprobs"): Probe(lambda s: "yes" if s.says("logprobs") else "no", zero=False),
    ("chat", "top_logprobs"): Probe(number("top_logprobs"), beside=with_logprobs),
    ("responses", "top_logprobs"): Probe(ignored),
    ("completions", "logprobs"): Probe(
        lambda s: "none" if s.sampling.top_logprobs is None else str(s.sampling.top_logprobs)
    ),
    ("responses", "prompt"): Probe(ignored),
    ("responses", "stream_options"): Probe(ignored, empty={}),
    ("messages", "tool_choice"): Probe(choice, empty={}, beside=with_tools),
    ("messages", "metadata"): Probe(ignored, empty={}),
}


@dataclass(frozen=True)
class Row:
    field: str
    endpoints: tuple[str, ...]
    cells: tuple[str, str, str, str]

    def cases(self, endpoint: str) -> list[tuple[Any, str]]:
        """Each value with what the page says of it."""
        probe = probe_of(endpoint, self.field)
        empty = list(probe.empty) if isinstance(probe.empty, tuple) else probe.empty
        found = []
        for value, cell in zip((OMITTED, None, probe.zero, empty), self.cells, strict=True):
            main, _, others = cell.partition(" (")
            found.append((value, main))
            for shown, word in re.findall(r"`([^`]*)`: ([^,)]+)", others):
                found.append((json.loads(shown), word))
        return found


def probe_of(endpoint: str, field: str) -> Probe:
    return OF_ENDPOINT.get((endpoint, field)) or PROBES[field]


def rows() -> list[Row]:
    """The page's table; a row may name several fields."""
    _, _, section = PAGE.read_text().partition("## Fields")
    found = []
    for line in section.split("\n## ")[0].split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 6 or not cells[0].startswith("`"):
            continue
        endpoints = tuple(ENDPOINTS) if cells[1] == "all" else tuple(cells[1].split(", "))
        for field in re.findall(r"`([^`]+)`", cells[0]):
            found.append(Row(field, endpoints, (cells[2], cells[3], cells[4], cells[5])))
    return found


ROWS = rows()


async def test_the_table_has_each_field_of_each_endpoint_once() -> None:
    for endpoint, (_, body, _) in ENDPOINTS.items():
        listed = [row.field for row in ROWS if endpoint in row.endpoints]
        fields = list(body.__struct_fields__)
        if endpoint in ("chat", "completions"):
            fields += [f"stream_options.{name}" for name in StreamOptions.__struct_fields__]
        assert sorted(listed) == sorted(fields), endpoint


@pytest.fixture(scope="module")
def model_with_defaults(model_of: Callable[[str], ModelFiles]) -> ModelFiles:
    model = model_of(TEMPLATE)
    return replace(model, defaults=own_defaults(model.defaults, json.dumps(DEFAULTS)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    model_with_defaults: ModelFiles,
    gateway_of: Callable[..., Any],
    answers: Callable[..., list[OutputDelta]],
) -> AsyncIterator[Any]:
    said = model_with_defaults.tokenizer.encode("one two", add_special_tokens=False).ids

    def script(request: GenerateRequest) -> list[OutputDelta]:
        deltas = answers(said)
        if request.sampling.top_logprobs is None:
            return deltas
        return [replace(delta, logprobs=(TokenLogprobs(-0.5, ()),)) for delta in deltas]

    async with gateway_of(model_with_defaults, script) as running:
        yield running


def placed(body: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """The body with the field, which may be one of stream_options."""
    outer, _, inner = field.partition(".")
    if not inner:
        return body if value is OMITTED else {**body, field: value}
    options = {"include_usage": True} if inner == "continuous_usage_stats" else {}
    return {**body, outer: options if value is OMITTED else {**options, inner: value}}


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{row.field}-{'+'.join(row.endpoints)}" for row in ROWS]
)
async def test_a_field_left_out_null_zero_or_empty_does_what_the_page_says(
    gateway: Any, row: Row
) -> None:
    for endpoint in row.endpoints:
        path, _, base = ENDPOINTS[endpoint]
        probe = probe_of(endpoint, row.field)
        plain: list[GenerateRequest] = []
        for value, word in row.cases(endpoint):
            for stream in (False, True) if row.field.partition(".")[0] != "stream" else (None,):
                extra = {} if stream is None else {"stream": stream}
                body = {"model": "tiny", **base, **extra, **probe.beside(endpoint)}
                if value is OMITTED:
                    body.pop(row.field, None)
                gateway.router.requests.clear()
                answer = await gateway.client.post(path, json=placed(body, row.field, value))
                case = (endpoint, row.field, value, answer.text[:500])
                if word in ("400", "404"):
                    assert answer.status_code == int(word), case
                    assert str(answer.json()["error"]["param"]).startswith(row.field), case
                    continue
                assert answer.status_code == 200, case
                requests = list(gateway.router.requests)
                tokens = list(requests[0].prompt_tokens)
                prompt = gateway.services.model.tokenizer.decode(tokens)
                plain = plain or requests
                assert probe.look(Seen(requests, plain, answer, prompt)) == word, case


CALL_FIELDS = {
    field.name
    for field in generate_pb2.CompletionCall.DESCRIPTOR.fields
    if field.containing_oneof is not None and field.name == field.containing_oneof.name[1:]
}  # those that the proto marks optional
CALL_ROWS = [row for row in ROWS if "completions" in row.endpoints and row.field in CALL_FIELDS]


async def called(channel: grpc.aio.Channel, fields: dict[str, Any]) -> httpx.Response:
    """A call's answer as HTTP would have it: the events as text, or a 400 with the field."""
    call = generate_pb2.CompletionCall(model="tiny", text="Hello", **fields)
    try:
        events = [event async for event in generate_pb2_grpc.GenerateStub(channel).Generate(call)]
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        trailer = dict(error.trailing_metadata() or ())
        return httpx.Response(400, text=str(trailer["baton-param"]))
    shown = [MessageToJson(event, preserving_proto_field_name=True) for event in events]
    return httpx.Response(200, text="".join(shown))


async def test_a_call_over_grpc_tells_zero_from_left_out_as_the_page_says(gateway: Any) -> None:
    assert {row.field for row in CALL_ROWS} == CALL_FIELDS
    async with gateway.grpc_channel() as channel:
        for row in CALL_ROWS:
            probe = probe_of("completions", row.field)
            given, at = (probe.empty, 3) if isinstance(probe.empty, str) else (probe.zero, 2)
            plain: list[GenerateRequest] = []
            for fields, cell in (({}, row.cells[0]), ({row.field: given}, row.cells[at])):
                gateway.router.requests.clear()
                answer = await called(channel, fields)
                word = cell.partition(" (")[0]
                if word == "400":
                    assert (answer.status_code, answer.text) == (400, row.field)
                    continue
                requests = list(gateway.router.requests)
                plain = plain or requests
                assert probe.look(Seen(requests, plain, answer, "")) == word, (row.field, fields)
