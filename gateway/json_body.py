"""A request's JSON as the types of its endpoint, or the field that does not fit."""

import re
from typing import Any, TypeVar

import msgspec

from gateway.errors import ApiError, invalid

S = TypeVar("S", bound=msgspec.Struct)
_MAX_IGNORED_FIELDS = 100
_STEP = re.compile(r"\.([^.\[`]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$.*`)?$", re.DOTALL)


def decode_json(
    decoder: "msgspec.json.Decoder[S]", body: bytes, *, ignores_unknown: bool = False
) -> S:
    """Raises ApiError 400 for malformed JSON, a wrong type or an unknown field, naming it.

    ignores_unknown: up to 100 unknown fields are left out.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if ignores_unknown and _unknown(str(error)):
            return _without_unknown(decoder, body)
        raise _wrong_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise invalid("the body's JSON is nested too deeply", code="invalid_json") from error


def _without_unknown(decoder: "msgspec.json.Decoder[S]", body: bytes) -> S:
    """Leaves out one unknown field after the other, as the decoder comes upon them."""
    content = msgspec.json.decode(body)
    for _ in range(_MAX_IGNORED_FIELDS):
        try:
            return decoder.decode(msgspec.json.encode(content))
        except msgspec.ValidationError as error:
            reason = str(error)
            name = _unknown(reason)
            if not name:
                raise _wrong_field(reason) from error
            del _holder(content, reason)[name]
    raise invalid(f"the body has over {_MAX_IGNORED_FIELDS} unknown fields", code="unknown_field")


def _holder(content: Any, reason: str) -> Any:
    """The object that has the unknown field, found by the path in the decoder's words."""
    place = reason.partition(" - at `$")[2]
    for field, index in _STEP.findall(place):
        content = content[field] if field else content[int(index)]
    return content


def _unknown(reason: str) -> str:
    """The name of the unknown field, if that is what the decoder says."""
    named = _UNKNOWN.match(reason)
    return named[1] if named else ""


def _wrong_field(reason: str) -> ApiError:
    """msgspec says "Expected `int`, got `str` - at `$.max_tokens`"."""
    what, _, place = reason.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    named = re.search(r"(unknown|required) field `(.*)`", what)
    if named:
        path = f"{path}.{named[2]}".removeprefix(".")
    code = "unknown_field" if named and named[1] == "unknown" else "invalid_type"
    where = f" (field {path!r})" if path else ""
    return invalid(f"{what}{where}", path or None, code)
