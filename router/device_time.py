"""What a request took of its workers' devices, by stage."""

from collections.abc import Callable


class DeviceTime:
    """Of one attempt: each leg tells its share of its worker's steps so far with its tokens.

    A leg that computes the prompt has done so by its first tokens; what follows is decoding.
    """

    def __init__(self) -> None:
        self._prompt_s: dict[int, float] = {}  # by leg
        self._whole_s: dict[int, float] = {}

    def note(self, leg_id: int, device_s: float, computes_prompt: Callable[[int], bool]) -> None:
        """device_s: what the leg has told by now. computes_prompt: asked once a leg."""
        if leg_id not in self._whole_s and computes_prompt(leg_id):
            self._prompt_s[leg_id] = device_s
        self._whole_s[leg_id] = device_s

    @property
    def prefill_s(self) -> float:
        return sum(self._prompt_s.values())

    @property
    def decode_s(self) -> float:
        return sum(self._whole_s.values()) - self.prefill_s
