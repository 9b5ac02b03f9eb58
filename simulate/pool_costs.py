"""What a change of the pools takes."""

from dataclasses import dataclass

from wire.messages import Role


@dataclass(frozen=True, slots=True)
class PoolCosts:
    """What changes take: flips in seconds without new work, starts beyond the weights' load."""

    flip_to_decode_s: float = 0.1
    flip_to_prefill_s: float = 1.0
    start_s: float = 10.0

    def flip_s(self, to_role: Role) -> float:
        return self.flip_to_prefill_s if to_role is Role.PREFILL else self.flip_to_decode_s
