"""Typed reading of a JSON object of a model directory; errors name the file and the field."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError


@dataclass(frozen=True, slots=True)
class JsonFields:
    """The fields of one JSON object and the file they came from. A null counts as absent."""

    path: Path
    values: Mapping[str, object]

    @classmethod
    def from_file(cls, path: Path) -> "JsonFields":
        """Read a file that holds one JSON object. Raises ModelError when there is none."""
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise ModelError(path, "file is missing") from None
        except OSError as error:
            raise ModelError(path, f"cannot be read: {error.strerror}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(path, f"is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError(path, "must hold a JSON object")
        return cls(path, values)

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer; without a default the field is required."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(name, "a positive integer")
        return value

    def count(self, name: str, default: int) -> int:
        """An integer that is not negative."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(name, "an integer from 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; without a default the field is required."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
            raise self._wrong(name, "a finite number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when the field is absent."""
        value = self._value(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings")
        return tuple(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A required list of positive finite numbers."""
        value = self._value(name, None)
        if not isinstance(value, list) or not all(
            isinstance(item, int | float) and not isinstance(item, bool) and 0 < item < math.inf
            for item in value
        ):
            raise self._wrong(name, "a list of positive numbers")
        return tuple(float(item) for item in value)

    def indices(self, name: str) -> tuple[int, ...]:
        """A list of integers, none negative; empty when the field is absent."""
        value = self._value(name, [])
        if not isinstance(value, list) or not all(
            isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
        ):
            raise self._wrong(name, "a list of integers from 0")
        return tuple(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; empty when the field is absent."""
        value = self._value(name, [])
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise self._wrong(name, "a token id or a list of them")
        return tuple(items)

    def nested(self, name: str) -> "JsonFields":
        """The object under `name`; empty when the field is absent."""
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return JsonFields(self.path, value)

    def _value(self, name: str, default: object) -> object:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            raise ModelError(self.path, f"field {name!r} is missing")
        return default

    def _wrong(self, name: str, expected: str) -> ModelError:
        return ModelError(self.path, f"field {name!r} must be {expected}, is {self.values[name]!r}")
