"""What the operator API asks of the autopilot, and how a decision is kept."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from control_plane.planner.config import PlannerConfig
from control_plane.planner.types import Decision
from wire.errors import BatonError, ErrorCode


class Stance(StrEnum):
    """off: nothing is planned. advise: decisions are made and shown. act: they are carried out."""

    OFF = "off"
    ADVISE = "advise"
    ACT = "act"


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """A decision and what came of it. at_s: seconds since 1970.

    outcomes: one per action: done, refused: why, failed: why; empty while it is only advice.
    """

    number: int
    at_s: float
    decision: Decision
    outcomes: tuple[str, ...] = ()

    @property
    def acted(self) -> bool:
        return any(self.outcomes)


@dataclass(frozen=True, slots=True)
class SupposedLoad:
    """Means of a load that nobody has sent; objectives of 0 are the configured ones."""

    requests_per_s: float
    prompt_tokens: float
    output_tokens: float
    cached_share: float = 0.0
    ttft_slo_s: float = 0.0
    tpot_slo_s: float = 0.0


class Planning(Protocol):
    """The autopilot as an operator sees it."""

    def stance(self) -> Stance: ...

    def decisions(self) -> tuple[RecordedDecision, ...]:
        """The newest last, as many as are kept."""

    def config(self) -> PlannerConfig: ...

    def configure(self, config: PlannerConfig) -> None:
        """Takes effect with the next tick."""

    def what_if(self, load: SupposedLoad) -> Decision:
        """The planner's own answer over the live workers. Touches nothing.

        Raises BatonError UNAVAILABLE while there is nothing to answer from.
        """


class Unplanned:
    """Nothing is planned in this process; the configuration still bounds what operators do."""

    def __init__(self, config: PlannerConfig | None = None) -> None:
        self._config = config or PlannerConfig()

    def stance(self) -> Stance:
        return Stance.OFF

    def decisions(self) -> tuple[RecordedDecision, ...]:
        return ()

    def config(self) -> PlannerConfig:
        return self._config

    def configure(self, config: PlannerConfig) -> None:
        self._config = config

    def what_if(self, load: SupposedLoad) -> Decision:
        """Raises BatonError UNAVAILABLE."""
        raise BatonError(ErrorCode.UNAVAILABLE, "no planner runs in this control plane")
