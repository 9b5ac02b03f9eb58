"""The heart of a worker: commands in, engine steps, events out. One thread owns it."""

from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType

from decode_worker.intake import Intake
from engine.batch import StepPlan
from engine.engine import Engine
from engine.results import EngineLoad
from prefill_worker.publisher import Publisher
from wire.messages import Role, StepTotals, WorkerReport
from worker import commands
from worker.legs import Legs
from worker.moves import Moves
from worker.outbox import Outbox
from worker.step_totals import add_step


class WorkerCore:
    """Runs both phases on one engine. No I/O and no threads: calls happen on the owner's thread."""

    def __init__(
        self,
        role: Role,
        engine: Engine,
        publisher: Publisher,
        intake: Intake,
        *,
        batch_tokens: Mapping[Role, int] = MappingProxyType({}),
        move_above: float = 0.0,
    ) -> None:
        """batch_tokens: the chunk budget of a role; one that is not named keeps the engine's.
        move_above: see Moves.
        """
        self._moves = Moves(role, move_above)
        self._batch_tokens = batch_tokens
        self._engine = engine
        self._publisher = publisher
        self._intake = intake
        self._legs = Legs(engine, publisher, intake, self._moves)
        self._num_steps = 0
        self._num_layers = 0
        self._last_step_s = 0.0
        self._totals = StepTotals()
        self._told = (role, False)
        self._outbox = Outbox(self.report())

    # --- what the loop calls -----------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return self._engine.has_work

    @property
    def progress(self) -> int:
        """Layers computed so far; other threads may look at it while a step runs."""
        return self._num_layers

    @property
    def is_quiet(self) -> bool:
        """No leg is alive and no published block is held."""
        return not self._legs and not self._intake.num_active

    def apply(self, command: commands.Command) -> None:
        match command:
            case commands.Start(session_id, leg, came_s):
                self._legs.start(session_id, leg, came_s)
            case commands.Cancel(session_id, leg_id):
                self._legs.cancel(session_id, leg_id)
            case commands.Join(session_id):
                self._legs.join(session_id)
                self._send_snapshot(session_id)
            case commands.Leave(session_id):
                self._legs.leave(session_id)
            case commands.Snapshot(session_id):
                self._send_snapshot(session_id)
            case commands.Pulled(result):
                self._outbox.pulls.append(result)
                self._legs.pulled(result)
            case commands.Released(seq_id):
                self._legs.released(seq_id)
            case commands.Continue():
                self._legs.go_on(command)
            case commands.Drain() | commands.Flip() | commands.Migrate():
                self._obey(command)

    def begin_step(self) -> StepPlan | None:
        """Begins pulls, decides the next step and publishes what it computes first.

        The outbox is to be delivered before `run_step`, so that readers follow the step from its
        first layer on. None: there is nothing to run.
        """
        self._legs.begin_pulls()
        plan = self._engine.schedule()
        if plan is not None:
            self._legs.publish(plan)
        return plan

    def run_step(self, plan: StepPlan, before_s: float = 0.0) -> float:
        """Computes what `begin_step` has decided; gives its seconds.

        before_s: what passed since the step before, or since there was something to run; it is part
        of what a step takes, and so of the totals. What blocks took that came back from the host
        is not: the router adds it by itself.
        """
        result = self._engine.execute(plan, self._on_layers)
        self._num_steps += 1
        self._last_step_s = result.step_s
        taken_s = max(0.0, before_s + result.step_s - plan.restore_s)
        self._totals = add_step(self._totals, plan, taken_s)
        self._legs.share_out(plan, before_s + result.step_s)
        self._outbox.steps.append(result)
        for _, outputs in groupby(result.outputs, key=attrgetter("seq_id")):
            self._legs.sampled(tuple(outputs))
        for seq_id in result.failed:
            self._legs.fail_without_token(seq_id)
        return result.step_s

    def check_integrity(self) -> None:
        """Raises AssertionError when a pool's invariant does not hold."""
        self._engine.check_integrity()
        self._publisher.check_integrity()

    def fail_all(self, message: str) -> None:
        """After an exception in a step: every leg fails, and the engine is empty again."""
        self._legs.fail_all(message)

    def take_outbox(self) -> Outbox:
        """What has gathered since the last call."""
        load = self._engine.load()
        outbox, self._outbox = self._outbox, Outbox(self._report(load))
        report = outbox.report = self._outbox.report
        told, self._told = self._told, (report.role, report.flipping)
        outbox.events = self._legs.take_events()
        outbox.num_preemptions = load.num_preemptions
        outbox.has_news = bool(outbox.flips) or told != self._told
        outbox.block_event = self._engine.take_block_event()
        return outbox

    def report(self) -> WorkerReport:
        return self._report(self._engine.load())

    def _report(self, load: EngineLoad) -> WorkerReport:
        return WorkerReport(
            role=self._moves.role,
            num_steps=self._num_steps,
            has_work=self.has_work,
            draining=self._moves.is_draining,
            num_running=load.num_running,
            num_waiting=load.num_waiting + self._intake.num_waiting,
            waiting_tokens=load.waiting_tokens,
            num_blocks=load.num_blocks,
            num_free_blocks=load.num_free_blocks,
            context_tokens=load.context_tokens,
            num_exports=self._publisher.num_active,
            num_imports=self._intake.num_active,
            step_s=self._last_step_s,
            progress=self._num_layers,
            totals=self._totals,
            role_epoch=self._moves.role_epoch,
            flipping=self._moves.is_flipping,
            host=load.host,
        )

    # --- orders ------------------------------------------------------------------------------

    def _obey(self, order: commands.Drain | commands.Flip | commands.Migrate) -> None:
        match order:
            case commands.Drain():
                self._moves.drain()
            case commands.Flip(role):
                self._flip(role)
            case commands.Migrate(count):
                for seq_id in self._moves.longest(count):
                    self._legs.move(seq_id, "the control plane asks for it")

    def _flip(self, role: Role) -> None:
        if not self._moves.flip(role, self._legs.running(is_prefill=role is Role.DECODE)):
            return
        if role in self._batch_tokens:
            self._engine.set_batch_tokens(self._batch_tokens[role])
        self._outbox.flips.append(role)

    def _send_snapshot(self, session_id: int) -> None:
        self._outbox.snapshots[session_id] = self._engine.block_snapshot()

    def _on_layers(self, num_layers: int) -> None:
        self._num_layers += 1
        self._publisher.on_layers(num_layers)
