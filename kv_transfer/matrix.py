"""What each pair of workers was measured at, and which pairs are worse than they were. Pure."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from statistics import median


@dataclass(frozen=True, slots=True)
class Measurement:
    """One probe of the way from a source to a reader.

    latency_s: a pull of one block, from the call to its result. bandwidth_bytes_s: of a large one.
    transport: empty when the probe failed, and error says why. wanted_transport: what should have
    been used.
    """

    latency_s: float = 0.0
    bandwidth_bytes_s: float = 0.0
    transport: str = ""
    error: str = ""
    wanted_transport: str = ""


class AlarmKind(StrEnum):
    UNREACHABLE = "unreachable"  # the probe failed
    SLOWER = "slower"  # less bandwidth than this pair used to have
    LATER = "later"  # more latency than this pair used to have
    FALLBACK = "fallback"  # a worse transport than this pair should have
    OTHER_TRANSPORT = "other_transport"  # another than it used to be read by


@dataclass(frozen=True, slots=True)
class Alarm:
    """A pair that needs a look; message is for people."""

    source: str
    reader: str
    kind: AlarmKind
    message: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair's newest measurement, when it was taken, and what is wrong with it."""

    source: str
    reader: str
    measured: Measurement
    at_s: float
    alarms: tuple[Alarm, ...]


class PairMatrix:
    """Measurements by (source, reader), by worker id: a restarted worker is the same pair.

    A pair is judged by the median of its last `memory` good measurements without an alarm, so a
    link that has become slow does not become its own excuse.
    """

    def __init__(self, factor: float = 2.0, memory: int = 8) -> None:
        """factor: how many times worse than usual is an alarm."""
        self._factor = factor
        self._memory = memory
        self._usual: dict[tuple[str, str], deque[Measurement]] = {}
        self._entries: dict[tuple[str, str], Entry] = {}

    def record(self, source: str, reader: str, measured: Measurement, now_s: float) -> Entry:
        """Takes a measurement in; its entry says what is wrong."""
        pair = (source, reader)
        usual = self._usual.setdefault(pair, deque(maxlen=self._memory))
        alarms = tuple(
            Alarm(source, reader, kind, message) for kind, message in self._judge(measured, usual)
        )
        if not alarms:
            usual.append(measured)
        entry = self._entries[pair] = Entry(source, reader, measured, now_s, alarms)
        return entry

    def accept(self, source: str, reader: str) -> None:
        """An operator says that the pair's newest measurement is what it is from here on."""
        entry = self._entries[source, reader]
        self._usual[source, reader].clear()
        self.record(source, reader, entry.measured, entry.at_s)

    def entry(self, source: str, reader: str) -> Entry | None:
        return self._entries.get((source, reader))

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def alarms(self) -> list[Alarm]:
        return [alarm for entry in self._entries.values() for alarm in entry.alarms]

    def forget(self, worker_id: str) -> None:
        """A worker that will not come back."""
        for pair in [pair for pair in self._entries if worker_id in pair]:
            del self._entries[pair]
            del self._usual[pair]

    def _judge(
        self, measured: Measurement, usual: deque[Measurement]
    ) -> Iterator[tuple[AlarmKind, str]]:
        if measured.error:
            yield AlarmKind.UNREACHABLE, measured.error
            return
        if measured.wanted_transport not in ("", measured.transport):
            text = f"read by {measured.transport}, {measured.wanted_transport} was expected"
            yield AlarmKind.FALLBACK, text
        if not usual:
            return
        name = usual[-1].transport
        if measured.transport != name:
            text = f"read by {measured.transport}, used to be read by {name}"
            yield AlarmKind.OTHER_TRANSPORT, text
        bandwidth = median(past.bandwidth_bytes_s for past in usual)
        if measured.bandwidth_bytes_s * self._factor < bandwidth:
            text = f"{measured.bandwidth_bytes_s / 1e9:.3g} GB/s, used to be {bandwidth / 1e9:.3g}"
            yield AlarmKind.SLOWER, text
        latency_s = median(past.latency_s for past in usual)
        if measured.latency_s > latency_s * self._factor:
            text = f"{1e3 * measured.latency_s:.3g} ms, used to be {1e3 * latency_s:.3g} ms"
            yield AlarmKind.LATER, text
