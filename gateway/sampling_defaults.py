"""What goes for the sampling fields that a request leaves out: the operator's word, the model's."""

from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import UNSET

from gateway.errors import ApiError, invalid
from gateway.json_body import decode_json
from gateway.openai import Real, Whole

_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Range:
    """What a field may be; NaN is in no range."""

    field: str
    lowest: float
    highest: float
    open_below: bool = False

    def check(self, value: Real) -> None:
        """Raises ApiError 400 naming the field, its value and its limits."""
        if value is None or value is UNSET:
            return
        above = value > self.lowest if self.open_below else value >= self.lowest
        if not (above and value <= self.highest):
            relation = "greater than" if self.open_below else "at least"
            raise invalid(
                f"{self.field} must be {relation} {self.lowest} and at most {self.highest}, "
                f"is {value}",
                self.field,
            )


RANGES = (
    Range("temperature", 0, 2),
    Range("top_p", 0, 1, open_below=True),
    Range("top_k", -1, _INT32),
    Range("min_p", 0, 1),
    Range("presence_penalty", -2, 2),
    Range("frequency_penalty", -2, 2),
    Range("repetition_penalty", 0, 10, open_below=True),
    Range("max_tokens", 1, _INT32),
)  # of the fields that a server may have defaults for


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The values here are what null asks for: none of it. max_tokens 0: what the context leaves."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 0


NEUTRAL = SamplingDefaults()


class _OwnDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    temperature: Real = UNSET
    top_p: Real = UNSET
    top_k: Whole = UNSET
    min_p: Real = UNSET
    presence_penalty: Real = UNSET
    frequency_penalty: Real = UNSET
    repetition_penalty: Real = UNSET
    max_tokens: Whole = UNSET


def own_defaults(of_model: SamplingDefaults, text: str) -> SamplingDefaults:
    """The model's defaults where the operator's JSON object `text` says nothing else.

    null there is as in a request: none of it. Raises ValueError naming the field that is wrong.
    """
    if not text:
        return of_model
    try:
        own = decode_json(msgspec.json.Decoder(_OwnDefaults), text.encode())
        for limits in RANGES:
            limits.check(getattr(own, limits.field))
    except ApiError as error:
        raise ValueError(f"request_defaults: {error.message}") from error
    given: dict[str, Any] = {
        name: getattr(NEUTRAL, name) if value is None else value
        for name, value in msgspec.structs.asdict(own).items()
        if value is not UNSET
    }
    return replace(of_model, **given)
