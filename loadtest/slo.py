"""Latency objectives of single requests, written `ttft:500 tpot:30` (milliseconds)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.errors import LoadtestError
from loadtest.record import RequestRecord

Measure = Callable[[RequestRecord], float | None]

MEASURES: Mapping[str, Measure] = {
    "ttft": lambda record: record.ttft_s,
    "tpot": lambda record: record.tpot_s,
    "e2el": lambda record: record.e2e_s,
    "stall": lambda record: record.longest_stall_s,
}


@dataclass(frozen=True, slots=True)
class Slo:
    """limits_ms: by measure; a request meets the objective when it meets all of them."""

    limits_ms: Mapping[str, float]

    def is_met(self, record: RequestRecord) -> bool:
        """An error is a miss. An answer of one token has no TPOT to miss."""
        if not record.is_ok:
            return False
        for name, limit_ms in self.limits_ms.items():
            value_s = MEASURES[name](record)
            if value_s is None:
                if name == "ttft":
                    return False
            elif value_s * 1000 > limit_ms:
                return False
        return True

    def __str__(self) -> str:
        return " ".join(f"{name}:{limit:g}" for name, limit in self.limits_ms.items())


@dataclass(frozen=True, slots=True)
class SloSet:
    """The objective of each class; `default` where a class has none of its own."""

    default: Slo
    by_class: Mapping[str, Slo]

    def of(self, class_name: str) -> Slo:
        return self.by_class.get(class_name, self.default)

    def is_met(self, record: RequestRecord) -> bool:
        return self.of(record.class_name).is_met(record)

    def __str__(self) -> str:
        named = [f"{name}={slo}" for name, slo in self.by_class.items()]
        default = [str(self.default)] if self.default.limits_ms else []
        return ", ".join([*default, *named])


def parse_slo(text: str) -> Slo:
    """Raises LoadtestError; the empty text is an objective that every success meets."""
    limits: dict[str, float] = {}
    for part in text.replace(",", " ").split():
        name, _, value = part.partition(":")
        if name not in MEASURES or name in limits:
            known = ", ".join(MEASURES)
            raise LoadtestError(
                f"{part!r} in the SLO {text!r}: one each of {known}, as in ttft:500"
            )
        try:
            limits[name] = float(value)
        except ValueError:
            raise LoadtestError(f"{part!r} in the SLO {text!r} has no milliseconds") from None
        if not 0 < limits[name] < float("inf"):
            raise LoadtestError(f"{part!r} in the SLO {text!r} must be positive")
    return Slo(limits)


def parse_slos(texts: Sequence[str]) -> SloSet:
    """`ttft:500 tpot:30` for all requests, `chat=ttft:500` for those of a class."""
    default, by_class = Slo({}), {}
    for text in texts:
        name, equals, limits = text.partition("=")
        if equals:
            by_class[name.strip()] = parse_slo(limits)
        else:
            default = parse_slo(text)
    return SloSet(default, by_class)
