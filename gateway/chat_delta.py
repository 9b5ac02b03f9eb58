"""What a streamed chat adds to its message, piece by piece."""

import msgspec


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first of a call has its id, type and name; the others have more of its arguments."""

    index: int | None = None  # None in a message that is whole
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


def call_began(index: int, call_id: str, name: str) -> Delta:
    function = FunctionDelta(name, "")
    return Delta(tool_calls=[ToolCallDelta(index, call_id, "function", function)])


def call_goes_on(index: int, arguments: str) -> Delta:
    return Delta(tool_calls=[ToolCallDelta(index, function=FunctionDelta(arguments=arguments))])
