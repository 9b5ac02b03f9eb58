"""`baton simulate --replay`: a recorded router's placements, made again and compared."""

from pathlib import Path

from rich.console import Console

from router.recording import Outcome
from simulate.replay import Replayed, replay

_SHOWN = 5


def run_replay(console: Console, path: Path) -> bool:
    """Prints what came of it; True where every placement is the recorded one.

    Raises RecordingError for a file that is no recording.
    """
    done = replay(path)
    console.print(_summary(done), highlight=False, soft_wrap=True)
    for difference in done.differences[:_SHOWN]:
        console.print(
            f"placement {difference.ordinal} at {difference.at_s:.6f} s:\n"
            f"  recorded  {_words(difference.recorded)}\n"
            f"  replayed  {_words(difference.replayed)}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    if len(done.differences) > _SHOWN:
        console.print(f"and {len(done.differences) - _SHOWN} more")
    return not done.differences


def _summary(done: Replayed) -> str:
    placed = f"{done.num_placements} placements of {done.num_entries} events"
    others = f"{done.num_refused} refused, {done.num_without} without a worker"
    differ = len(done.differences)
    return f"{placed} ({others}): {f'{differ} differ' if differ else 'all the same'}"


def _words(outcome: Outcome) -> str:
    if outcome.refused:
        return outcome.refused
    if not outcome.decode:
        return "no worker"
    pair = f"{outcome.prefill} -> {outcome.decode}" if outcome.prefill else outcome.decode
    return f"{outcome.kind} {pair} ({outcome.explanation})"
