"""What reaches a router's decisions, in order, as lines of JSON: enough to make them again.

Nothing of a prompt, an answer or a session's name is in a recording: block hashes, counts and
digests stand for them.
"""

import fcntl
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from runtime.log import get_logger

FORMAT = 1
_FLUSH_EVERY_S = 0.5
_log = get_logger("router")


class RecordingError(ValueError):
    """A recording that cannot be written or read; the message names the file and its line."""


class Entry(msgspec.Struct, frozen=True, tag_field="is", omit_defaults=True):
    """Something that happened at at_s of the router's clock."""

    at_s: float


class Head(Entry, frozen=True, tag="head"):
    """The first line. config: RouterConfig without secrets and addresses."""

    format: int
    config: dict[str, str | int | float]


class Listed(Entry, frozen=True, tag="listed"):
    """The registry's list came. snapshot: wire's ClusterSnapshot."""

    snapshot: bytes


class Swept(Entry, frozen=True, tag="swept"):
    """Sessions of dropped workers without legs were ended."""


class Opening(Entry, frozen=True, tag="opening"):
    """worker, here and below: the number of its session, in the order of their making."""

    worker: int


class FrameCame(Entry, frozen=True, tag="frame"):
    """frame: wire's WorkerFrame, without the answers' tokens."""

    worker: int
    frame: bytes


class Ended(Entry, frozen=True, tag="ended"):
    worker: int
    reason: str


class Checked(Entry, frozen=True, tag="checked"):
    """Liveness had something to say against the worker."""

    worker: int


class Forgiven(Entry, frozen=True, tag="forgiven"):
    worker: int
    seconds: float


class Elsewhere(Entry, frozen=True, tag="elsewhere"):
    """What other routers' legs add: the fields of LoadShare."""

    worker: int
    share: tuple[int, int, int, int, int]


class Answered(Entry, frozen=True, tag="answered"):
    worker: int
    predicted_s: float
    taken_s: float


class Exposed(Entry, frozen=True, tag="exposed"):
    worker: int
    predicted_s: float
    exposed_s: float


class Decoded(Entry, frozen=True, tag="decoded"):
    worker: int
    predicted_s: float
    taken_s: float


class Reserved(Entry, frozen=True, tag="reserved"):
    worker: int
    leg_id: int
    compute_tokens: int
    new_tokens: int
    num_tokens: int = 0


class Started(Entry, frozen=True, tag="started"):
    worker: int
    leg_id: int
    num_tokens: int


class Accepted(Entry, frozen=True, tag="accepted"):
    """A leg that another process carries out has reached its worker."""

    worker: int
    leg_id: int
    num_tokens: int
    num_cached_tokens: int


class Cancelled(Entry, frozen=True, tag="cancelled"):
    worker: int
    leg_id: int


class Settled(Entry, frozen=True, tag="settled"):
    worker: int
    leg_id: int


class Failed(Entry, frozen=True, tag="failed"):
    """A leg failed by its worker's fault."""

    worker_id: str
    epoch: int


class Noted(Entry, frozen=True, tag="noted"):
    """A replica told of a placement. session: a digest."""

    workers: tuple[str, ...]
    hashes: tuple[int, ...]
    session: str
    home: str
    age_s: float


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What placement answered: a pair, a refusal by its message, or neither."""

    prefill: str = ""
    decode: str = ""
    kind: str = ""
    explanation: str = ""
    refused: str = ""


class Placed(Entry, frozen=True, tag="placed"):
    """A request was to be placed. excluded: (worker_id, epoch) each. session: a digest."""

    num_prompt_tokens: int
    max_tokens: int
    hashes: tuple[int, ...]
    outcome: Outcome
    num_sent: int = 0
    excluded: tuple[tuple[str, int], ...] = ()
    priority: int = 0
    ttft_slo_s: float = 0.0
    tpot_slo_s: float = 0.0
    session: str = ""
    model: str = ""
    waited_s: float = 0.0


AnyEntry = (
    Head
    | Listed
    | Swept
    | Opening
    | FrameCame
    | Ended
    | Checked
    | Forgiven
    | Elsewhere
    | Answered
    | Exposed
    | Decoded
    | Reserved
    | Started
    | Accepted
    | Cancelled
    | Settled
    | Failed
    | Noted
    | Placed
)


class RecordingFile:
    """Appends entries until max_bytes, or until the disk takes no more; what comes after is left
    out, since a replay needs all of the beginning. close() writes what is buffered.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Raises RecordingError for a file that cannot be written; an older one is emptied."""
        self._path = path
        self._left_bytes = max_bytes
        self._flushed_s = -math.inf
        try:
            self._file: BinaryIO = _owned(path)
        except BlockingIOError as error:
            raise RecordingError(f"the recording {path} is written by another router") from error
        except OSError as error:
            raise RecordingError(f"the recording {path} cannot be written: {error}") from error

    def write(self, entry: Entry) -> None:
        """Never raises: a recording that cannot go on ends with a warning."""
        if self._left_bytes <= 0:
            return
        line = msgspec.json.encode(entry) + b"\n"
        self._left_bytes -= len(line)
        if self._left_bytes < 0:
            self._end("it has reached its bound")
            return
        try:
            self._file.write(line)
            if entry.at_s - self._flushed_s > _FLUSH_EVERY_S:
                self._flushed_s = entry.at_s
                self._file.flush()
        except OSError as error:
            self._end(str(error))

    def close(self) -> None:
        self._left_bytes = 0
        try:
            self._file.close()
        except OSError as error:
            self._end(str(error))

    def _end(self, reason: str) -> None:
        self._left_bytes = 0
        _log.warning("the recording ends", path=str(self._path), reason=reason)


def _owned(path: Path) -> BinaryIO:
    """The file, empty, locked until it is closed."""
    file = path.open("ab", buffering=1 << 18)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
    except OSError:
        file.close()
        raise
    return file


def read_recording(path: Path) -> Iterator[AnyEntry]:
    """All entries, the Head first. A last line that was cut off is left out.

    Raises RecordingError for a file that cannot be read, or is no recording.
    """
    decoder = msgspec.json.Decoder[AnyEntry](AnyEntry)
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                entry = _decoded(decoder, path, number, line)
                if number == 1:
                    _check_head(path, entry)
                yield entry
    except OSError as error:
        raise RecordingError(f"the recording {path} cannot be read: {error}") from error


def _decoded(
    decoder: msgspec.json.Decoder[AnyEntry], path: Path, number: int, line: bytes
) -> AnyEntry:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as error:
        raise RecordingError(f"{path}, line {number}: no entry of a recording: {error}") from error


def _check_head(path: Path, entry: AnyEntry) -> None:
    if not isinstance(entry, Head):
        raise RecordingError(f"{path}, line 1: a recording begins with its head")
    if entry.format != FORMAT:
        raise RecordingError(f"{path}: format {entry.format} of recordings, {FORMAT} is known")
