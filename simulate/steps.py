"""A modelled worker's steps in virtual time: the one under way, and the sums of all before it."""

from collections.abc import Callable, Sequence
from random import Random

from profiles.profile import Profile
from profiles.scatter import StepScatter
from simulate.batch import Batch
from simulate.chunk import Chunk
from simulate.event_loop import EventLoop
from simulate.stretch import Run, Stretch, UnevenStretch
from simulate.totals import RunningTotals
from wire.messages import StepTotals

_MAX_UNEVEN = 64  # steps of a run whose ends are drawn one by one; what a cut leaves was in vain


class Steps:
    """One step, or a run of decode-only steps as one event whose end a formula tells.

        idle --begin--> under way --its last step ends--> on_end(chunks), still under way
        under way --begin--> under way;  under way --rest--> idle

    Whoever owns it begins the next step or rests at on_end. What comes in the middle of a run cuts
    it at the end of the step that is under way.
    """

    def __init__(
        self,
        profile: Profile,
        batch: Batch,
        loop: EventLoop,
        on_end: Callable[[Sequence[Chunk]], None],
        rng: Random,
    ) -> None:
        self.busy_s = 0.0
        self._profile = profile
        self._batch = batch
        self._loop = loop
        self._on_end = on_end
        self._totals = RunningTotals()
        self._stretch: Run | None = None
        self._scatter = None if profile.scatter.is_none else StepScatter(profile.scatter, rng)
        self._expected_s = 0.0  # of the steps that have ended: where the scatter is
        self._version = 0
        self._wait_s = 0.0  # of the step under way, for what comes back from the host
        self._beyond_s = 0.0  # that wait without what the router adds by itself

    @property
    def is_idle(self) -> bool:
        return self._stretch is None

    def begin(self, chunks: list[Chunk]) -> None:
        """The batch's next step: these chunks, and a token of each sequence that decodes."""
        batch, now_s = self._batch, self._loop.now()
        num_decodes = len(batch.decoding)
        start_s, restored_s = max(now_s, batch.ready_s), batch.take_restored_s()
        self._wait_s, self._beyond_s = start_s - now_s, start_s - now_s - restored_s
        is_one = chunks or self._wait_s or restored_s
        count = 1 if is_one else batch.num_free_running_steps()
        slope_s = self._profile.context_token_s * num_decodes
        step_s = self._step_s(num_decodes, chunks)
        self._stretch = Stretch(start_s, step_s, slope_s, count, chunks)
        if self._scatter is not None:
            self._stretch = self._scattered(self._stretch, self._scatter)
        self._plan_end(self._stretch)

    def rest(self) -> None:
        self._stretch = None

    def interrupt(self) -> None:
        """A command waits: a run ends with the step that is under way."""
        stretch = self._stretch
        if stretch is not None and stretch.count > 1:
            count = stretch.num_begun(self._loop.now())
            if count < stretch.count:
                stretch.count = count
                self._plan_end(stretch)

    def count_done(self) -> None:
        """What of a run is done counts; the rest is a run of its own."""
        run = self._stretch
        done = 0 if run is None else run.num_done(self._loop.now())
        if run is None or not done:
            return
        rest = run.split(done)
        self._count(run)
        self._stretch = rest

    def stop(self) -> None:
        """Nothing ends any more."""
        self._version += 1

    def freeze(self, seconds: float) -> None:
        """The step under way ends later by as much, and alone."""
        self.count_done()
        if self._stretch is not None:
            self._stretch.delay(seconds)
            self._plan_end(self._stretch)

    def so_far(self) -> tuple[int, StepTotals, int]:
        """Steps that have ended, what they took, and those of them that the batch does not know.

        The last number is the done part of the run that is under way.
        """
        stretch = self._stretch
        done = 0 if stretch is None else stretch.num_done(self._loop.now())
        seconds = 0.0 if stretch is None else stretch.taken_s(done)
        batch = self._batch
        totals = self._totals.after(seconds, done, len(batch.decoding), batch.context_tokens)
        return totals.num_steps, totals, done

    def num_layers_done(self, done: int) -> int:
        """Of the step under way, behind `done` steps of its run."""
        if self._stretch is None:
            return 0
        return self._stretch.num_layers_done(self._loop.now(), done, self._profile.num_layers)

    def _step_s(self, num_decodes: int, chunks: list[Chunk]) -> float:
        """The first step's time. A chunk of one token is what a decoding sequence is."""
        profile = self._profile
        step_s = profile.decode_s(num_decodes, self._batch.context_tokens)
        prefill_step_s = 0.0
        for chunk in chunks:
            if chunk.end - chunk.start == 1:
                step_s += profile.sequence_s + profile.context_token_s * chunk.end
            else:
                step_s += profile.chunk_s(chunk.start, chunk.end)
                prefill_step_s = profile.prefill_step_s
        return step_s + prefill_step_s

    def _scattered(self, run: Stretch, scatter: StepScatter) -> UnevenStretch:
        """The run, or its first steps, as they turn out."""
        at_s, step_s, end_s, ends_s = self._expected_s, run.base_s, run.start_s, []
        scatter.forget_before(at_s)
        is_prefill = any(chunk.end - chunk.start > 1 for chunk in run.chunks)
        for _ in range(min(run.count, _MAX_UNEVEN)):
            end_s += step_s * scatter.factor(at_s, is_prefill)
            ends_s.append(end_s)
            at_s += step_s
            step_s += run.slope_s
        return UnevenStretch(run.start_s, run.base_s, run.slope_s, ends_s, len(ends_s), run.chunks)

    def _plan_end(self, stretch: Run) -> None:
        self._version += 1
        end_s = max(stretch.end_s(stretch.count), self._loop.now())
        self._loop.at(end_s, self._ended, self._version)

    def _ended(self, version: int) -> None:
        stretch = self._stretch
        if version == self._version and stretch is not None:
            self._count(stretch)
            self._on_end(stretch.chunks)

    def _count(self, stretch: Run) -> None:
        """All steps of the stretch are done."""
        batch, count, taken_s = self._batch, stretch.count, stretch.taken_s(stretch.count)
        told_s = max(0.0, taken_s + self._beyond_s)
        self._totals.add(told_s, count, len(batch.decoding), batch.context_tokens, stretch.chunks)
        self.busy_s += taken_s
        if isinstance(stretch, UnevenStretch):
            self._expected_s += stretch.expected_s
        batch.decoded(stretch, self._wait_s)
