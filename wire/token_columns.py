"""The tokens of one step in columns: a list of bytes a field, in place of two messages a token.

Of what a gateway's process pays for a streamed token, objects made of nested messages were the
largest part (docs/adr/0030).
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat, starmap
from typing import Any

from wire.errors import BatonError, ErrorCode
from wire.gen import worker_pb2
from wire.messages import LegEvent, LegTokens

_LEAST = 2  # one alone is as cheap as a message


def take_columns(
    events: Sequence[LegEvent],
) -> tuple[worker_pb2.TokenColumns | None, Sequence[LegEvent]]:
    """What of the events fits into columns, one token each without log-probabilities, and the
    others in their order; None and all of them where hardly any fits."""
    fitting = [(at, event) for at, event in enumerate(events) if _fits(event)]
    if len(fitting) < _LEAST:
        return None, events
    taken = [event for _, event in fitting if isinstance(event, LegTokens)]
    is_all = len(taken) == len(events)
    columns = worker_pb2.TokenColumns(
        leg_ids=_packed("Q", (event.leg_id for event in taken)),
        indices=_packed("I", (event.index for event in taken)),
        tokens=_packed("I", (event.tokens[0] for event in taken)),
        device_s=_packed("d", (event.device_s for event in taken))
        if any(event.device_s for event in taken)
        else b"",
        places=b"" if is_all else _packed("I", (at for at, _ in fitting)),
    )
    return columns, () if is_all else [event for event in events if not _fits(event)]


def put_columns(
    columns: worker_pb2.TokenColumns, others: Iterable[LegEvent]
) -> tuple[LegEvent, ...]:
    """All events in their order again. Raises BatonError for columns that do not fit together."""
    leg_ids = _unpacked("Q", columns.leg_ids)
    indices, tokens = _unpacked("I", columns.indices), _unpacked("I", columns.tokens)
    device_s = _unpacked("d", columns.device_s) if columns.device_s else [0.0] * len(tokens)
    sizes = [len(column) for column in (leg_ids, indices, tokens, device_s)]
    if len(set(sizes)) != 1:
        raise _misfit(f"{', '.join(map(str, sizes))} entries")
    rows = zip(leg_ids, indices, zip(tokens, strict=True), repeat(()), device_s, strict=False)
    told = tuple(starmap(LegTokens, rows))
    return _in_places(told, columns.places, list(others)) if columns.places else told


def _in_places(
    told: Sequence[LegEvent], packed: bytes, others: Sequence[LegEvent]
) -> tuple[LegEvent, ...]:
    places = _unpacked("I", packed)
    found: list[LegEvent | None] = [None] * (len(told) + len(others))
    if not len(set(places)) == len(places) == len(told) or max(places) >= len(found):
        raise _misfit(f"{len(places)} places for {len(told)} tokens among {len(found)} events")
    for at, event in zip(places, told, strict=True):
        found[at] = event
    rest = iter(others)
    return tuple([next(rest) if event is None else event for event in found])


def _fits(event: LegEvent) -> bool:
    return isinstance(event, LegTokens) and len(event.tokens) == 1 and not event.logprobs


def _packed(typecode: str, values: Iterable[float]) -> bytes:
    return array(typecode, values).tobytes()


def _unpacked(typecode: str, data: bytes) -> "array[Any]":
    values: array[Any] = array(typecode)
    try:
        values.frombytes(data)
    except ValueError as error:
        raise _misfit(f"{len(data)} bytes of {values.itemsize} each") from error
    return values


def _misfit(what: str) -> BatonError:
    return BatonError(ErrorCode.INVALID_REQUEST, f"columns of tokens do not fit together: {what}")
