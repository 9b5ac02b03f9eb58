"""Two attempts at one answer, of which the first to give a token goes on."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from router.attempt import Attempt


@dataclass(frozen=True, slots=True)
class RaceEnd:
    """winner: who goes on, or has failed last, or for good. tokens: its first. failed: who has
    failed before. beaten: who was still silent; it is closed."""

    winner: Attempt
    tokens: tuple[int, ...]
    failed: tuple[Attempt, ...] = ()
    beaten: tuple[Attempt, ...] = ()


async def first_to_speak(attempts: Sequence[Attempt]) -> RaceEnd:
    """Follows started attempts until one has tokens or its end. All others are closed then, all of
    them where this is cancelled. Whoever started the winner closes it.

    Each attempt has a stitcher of its own, so that nothing of a loser reaches the client.
    """
    takes = {attempt: asyncio.ensure_future(attempt.mailbox.take()) for attempt in attempts}
    failed: list[Attempt] = []
    winner: Attempt | None = None
    try:
        while True:
            await asyncio.wait(takes.values(), return_when=asyncio.FIRST_COMPLETED)
            for attempt, take in list(takes.items()):
                if not take.done():
                    continue
                tokens = attempt.take_in(take.result())
                del takes[attempt]
                if tokens or attempt.is_decided or (attempt.is_over and not takes):
                    winner = attempt
                    return RaceEnd(winner, tokens, tuple(failed), tuple(takes))
                if attempt.is_over:
                    attempt.close()
                    failed.append(attempt)
                else:
                    takes[attempt] = asyncio.ensure_future(attempt.mailbox.take())
    finally:
        for take in takes.values():
            take.cancel()
        for attempt in attempts:
            if attempt is not winner:
                attempt.close()
