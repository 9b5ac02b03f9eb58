"""How many workers of which hardware meet the objectives of a load, and what they cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from profiles.profile import Profile
from simulate.errors import SimulationError
from simulate.sweep import Base, Cell, CellResult, run_cells

_PREFILL_SHARES = (0.25, 0.375, 0.5, 0.625, 0.75)


@dataclass(frozen=True, slots=True)
class Need:
    """The least number of workers of one kind, with its best split; None: even the most miss."""

    profile: Profile
    cell: CellResult | None


class CapacitySearch:
    """Doubles the number of workers until the share `attain` is met, then halves the gap.

    It takes for granted that more workers of a kind never do worse. on_cell hears of every
    simulation.
    """

    def __init__(
        self,
        base: Base,
        attain: float,
        max_workers: int,
        jobs: int,
        on_cell: Callable[[CellResult], None],
    ) -> None:
        if max_workers < 1:
            raise SimulationError("at least one worker is needed")
        self._base = base
        self._attain = attain
        self._max_workers = max_workers
        self._jobs = jobs
        self._on_cell = on_cell

    def needs(self, profiles: Sequence[Profile]) -> list[Need]:
        """The need of each kind, all workers of one profile."""
        return [Need(profile, self._least(profile)) for profile in profiles]

    def _least(self, profile: Profile) -> CellResult | None:
        too_few, enough, found = 0, 1, self._best(profile, 1)
        while not self._meets(found):
            if enough == self._max_workers:
                return None
            too_few, enough = enough, min(2 * enough, self._max_workers)
            found = self._best(profile, enough)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            tried = self._best(profile, middle)
            if self._meets(tried):
                enough, found = middle, tried
            else:
                too_few = middle
        return found

    def _meets(self, result: CellResult) -> bool:
        return result.attainment >= self._attain

    def _best(self, profile: Profile, num_workers: int) -> CellResult:
        spec = replace(self._base.spec, prefill_profile=profile, decode_profile=profile)
        base = replace(self._base, spec=spec)
        cells = [Cell(split, base.strategy, base.rate) for split in splits_of(num_workers)]
        results = run_cells(base, cells, self._jobs, self._on_cell)
        return max(results, key=lambda result: (result.attainment, result.goodput))


def splits_of(num_workers: int) -> list[tuple[int, int]]:
    """Aggregated, and shares of prefill workers from a quarter to three quarters."""
    shares = {round(share * num_workers) for share in _PREFILL_SHARES}
    inner = sorted(number for number in shares if 0 < number < num_workers)
    return [(0, num_workers), *((number, num_workers - number) for number in inner)]
