"""What a server says of itself before it is loaded: its model and the longest prompt."""

from dataclasses import dataclass

import msgspec

from loadtest.errors import LoadtestError
from loadtest.fetch import get
from loadtest.target import Target
from runtime.clock import Clock

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """max_model_len: tokens of prompt and answer; 0: not told."""

    model: str
    max_model_len: int = 0


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


async def ask_server(target: Target, model: str, clock: Clock) -> ServerFacts:
    """The model to load, `model` if one is named. Raises LoadtestError without an answer to use."""
    page = await get(target, "/v1/models", clock, _TIMEOUT_S)
    try:
        cards = msgspec.json.decode(page.body, type=_Models).data if page.status == 200 else []
    except msgspec.DecodeError:
        cards = []
    if model:
        limits = [card.max_model_len for card in cards if card.id == model]
        return ServerFacts(model, (limits and limits[0]) or 0)
    if page.status == 0:
        raise LoadtestError(f"no server answers at {target.url}: {page.failure}")
    if not cards:
        problem = f"{target.url}/v1/models gives no model (HTTP {page.status})"
        raise LoadtestError(f"{problem}: name it with --model")
    return ServerFacts(cards[0].id, cards[0].max_model_len or 0)
