"""What a link leaves exposed, and the wire format that would leave least. Pure."""

from collections.abc import Mapping, Sequence

from kv_transfer.formats import FORMATS, WireFormat

AS_IS = "as_is"
CHOICES: Mapping[str, tuple[str, ...]] = {
    AS_IS: (),
    "auto": ("packed",),
    "auto_fp8": ("packed", "fp8"),
}
SETTINGS = (*CHOICES, *FORMATS)
_WEIGHT = 0.3  # of the newest pull
_LEAST_EXPOSED_S = 0.005  # below this a pull says nothing of the bandwidth
_GROWTH = 1.25
_GAIN = 0.9  # a format has to leave less than this share of what is exposed without it


def candidates(setting: str, dtype: str) -> tuple[str, ...]:
    """The formats that `setting` allows for a cache of `dtype`; a format's name forces it.

    Raises KeyError for a setting that does not exist.
    """
    names = CHOICES[setting] if setting in CHOICES else (FORMATS[setting].name,)
    return tuple(name for name in names if dtype in FORMATS[name].dtypes)


class Pace:
    """Of one link: wire bytes a second when nothing but the link is waited for, and the seconds a
    byte that prefill hides. Both are means of past pulls with the newest weighing most."""

    def __init__(self) -> None:
        self.bandwidth_bytes_s: float | None = None
        self.hidden_s_per_byte = 0.0

    def record(
        self, wire_format: str, num_bytes: int, exposed_bytes: int, exposed_s: float
    ) -> None:
        """A pull of `num_bytes` ended; `exposed_bytes` of them came after prefill's end.

        A pull that exposes nothing lets the estimate grow, so that a link that has become faster
        is found out by the pulls that go as they are.
        """
        ratio = FORMATS[wire_format].ratio if wire_format in FORMATS else 1.0
        if exposed_s < _LEAST_EXPOSED_S or not exposed_bytes:
            if self.bandwidth_bytes_s is not None:
                self.bandwidth_bytes_s *= _GROWTH
            return
        bandwidth = ratio * exposed_bytes / exposed_s
        hidden_s = max(0.0, ratio * num_bytes / bandwidth - exposed_s) / num_bytes
        if self.bandwidth_bytes_s is None:
            self.bandwidth_bytes_s, self.hidden_s_per_byte = bandwidth, hidden_s
            return
        self.bandwidth_bytes_s += _WEIGHT * (bandwidth - self.bandwidth_bytes_s)
        self.hidden_s_per_byte += _WEIGHT * (hidden_s - self.hidden_s_per_byte)

    def choose(self, num_bytes: int, names: Sequence[str]) -> str:
        """The format to ask for, AS_IS where none pays or nothing is known."""
        if self.bandwidth_bytes_s is None:
            return AS_IS
        best, least_s = AS_IS, _GAIN * self._exposed_s(num_bytes, None)
        for name in names:
            exposed_s = self._exposed_s(num_bytes, FORMATS[name])
            if exposed_s < least_s:
                best, least_s = name, exposed_s
        return best

    def _exposed_s(self, num_bytes: int, wire_format: WireFormat | None) -> float:
        """Predicted, the codec's own time included."""
        assert self.bandwidth_bytes_s is not None
        ratio = wire_format.ratio if wire_format is not None else 1.0
        cost_s = num_bytes * wire_format.cost_s_per_byte if wire_format is not None else 0.0
        link_s = num_bytes * ratio / self.bandwidth_bytes_s
        return max(0.0, link_s - num_bytes * self.hidden_s_per_byte) + cost_s
