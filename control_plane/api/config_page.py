"""The planner's configuration as JSON: written whole, read strictly."""

import re
from typing import Any

import msgspec

from control_plane.api.refusal import Refused
from control_plane.planner.config import PlannerConfig, PlannerConfigError

_NAMED = re.compile(r"Object (?:contains unknown|missing required) field `([^`]+)`")


def read_config(body: bytes) -> PlannerConfig:
    """Fields that are left out take their defaults. Raises Refused naming the field and why."""
    try:
        raw = msgspec.json.decode(body)
        config = msgspec.convert(raw, PlannerConfig)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except msgspec.DecodeError as error:
        raise Refused(f"the body is no JSON: {error}", code="invalid") from error
    unknown = _unknown(raw, msgspec.to_builtins(config))
    if unknown:
        raise Refused(f"there is no setting {unknown!r}", code="invalid", field=unknown)
    return config


def _invalid(error: msgspec.ValidationError) -> Refused:
    if isinstance(error.__cause__, PlannerConfigError):
        cause = error.__cause__
        return Refused(str(cause), code="invalid", field=cause.field, limit=cause.message)
    return invalid_field(error)


def invalid_field(error: msgspec.ValidationError) -> Refused:
    """msgspec says `Expected ... - at `$.field``; the part before is the limit. Of a field that is
    not there, or should not be, it says `Object ... field `name` - at `$.above``."""
    limit, _, path = str(error).partition(" - at `$")
    if named := _NAMED.match(limit):
        path, limit = f"{path.rstrip('`')}.{named[1]}", ""
    return Refused(
        str(error), code="invalid", field=path.rstrip("`").lstrip("."), limit=limit if path else ""
    )


def _unknown(given: Any, known: Any, path: str = "") -> str:
    """The first key of `given` that `known` has not, as a path; empty if there is none."""
    if isinstance(given, list) and isinstance(known, list | tuple):
        pairs = enumerate(zip(given, known, strict=True))
        found = (_unknown(one, other, f"{path}[{i}]") for i, (one, other) in pairs)
        return next((name for name in found if name), "")
    if not isinstance(given, dict) or not isinstance(known, dict):
        return ""
    for name, value in given.items():
        here = f"{path}.{name}".lstrip(".")
        if name not in known:
            return here
        if deeper := _unknown(value, known[name], here):
            return deeper
    return ""
