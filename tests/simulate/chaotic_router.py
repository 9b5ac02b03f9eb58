"""A whole router on a virtual clock, to which everything that can happen does, in any order."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from chaotic_workers import Process, Stream, any_prompt

from router.config import RouterConfig
from router.load import LoadShare
from router.parts import OnWorkers, Parts
from router.replica import PlacementNote
from router.router import Router
from router.stream import StreamOwner
from simulate.event_loop import EventLoop
from simulate.silence import SilentMetrics
from wire.cluster import Fingerprint, Mode, PairStatus, PoolProgress, ServingMode, WorkerInfo
from wire.errors import BatonError
from wire.kv import FabricAddress
from wire.messages import GenerateRequest, RequestTerms, Role, SamplingParams, WorkerReport

NAMES = tuple(f"{role.value}-{number}" for role in Role for number in range(3))
LAYOUTS = ("L2H2B16D8:float32", "L4H2B16D8:float32")
SESSIONS = ("", "", "ann", "bob")
POLICIES = ("predicted", "predicted", "predicted", "uncached_tokens", "ppd", "power_of_two")
PAUSES_S = (0.0,) * 8 + (1e-4, 1e-3, 0.004, 0.011, 0.02, 0.05, 0.1)
LONG_PAUSES_S = (0.3, 0.6, 1.1, 2.1, 2.6, 5.5)
BEAT_S = 0.4


class Watch:
    """The registry's word, as it is given."""

    is_connected = True
    pools: Sequence[PoolProgress] = ()
    serving = ServingMode()

    def __init__(self, on_workers: OnWorkers) -> None:
        self.on_workers = on_workers

    def start(self) -> None: ...

    async def stop(self) -> None: ...


def any_config(rng: Random, recording: Path) -> RouterConfig:
    """Bounds that are soon reached."""
    return RouterConfig(
        control_address="",
        client_id=f"chaos-{rng.randrange(100)}",
        policy=rng.choice(POLICIES),
        profile=rng.choice(("", "", "llama-3.1-8b@h200")),
        local_prefill_max_tokens=rng.choice((16, 100)),
        worker_wait_s=2.0,
        max_under_way=rng.choice((6, 1000)),
        max_queued=5,
        reject_ratio=rng.choice((-1.0, 0.0, 1.0)),
        tpot_slo_ms=rng.choice((50.0, 20.0)),
        session_ttl_s=5.0,
        shadow_policies="least_load",
        shadow_share=0.5,
        breaker_failures=2,
        breaker_window_s=5.0,
        max_prefix_blocks=rng.choice((60, 1000)),
        hedge=rng.choice((0.0, 0.5)),
        hedge_share=1.0,
        recording=str(recording),
    )


class ChaoticRouter:
    """num_steps of its rules, one after the other; then everything ends.

    looks: False leaves out what only looks at the workers, and nothing else.
    """

    def __init__(self, rng: Random, recording: Path, num_steps: int, looks: bool = True) -> None:
        self._rng = rng
        self._num_steps = num_steps
        self._looks = looks
        self._loop = EventLoop()  # type: ignore[abstract]  # it has no sockets
        self._by_address: dict[str, Process] = {}
        self._processes: dict[str, Process] = {}  # the latest of each name
        self._listed: dict[str, WorkerInfo] = {}
        self._mode = Mode.HYBRID
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._outside: list[str] = []
        self._num_made = 0
        self._recording = recording
        self._watch: Watch
        self._router: Router
        self._rules = self._with_weights()

    def _with_weights(self) -> list[Callable[[], None]]:
        """Each rule as often as it is to come; in every other run little goes wrong."""
        rules = [self.report] * 8 + [self.blocks] * 3 + [self.look] * 3 + [self.legs_go_on] * 20
        rules += [self.request] * 8
        rules += [self.place_outside, self.outside_goes_on, self.links_are_measured]
        rules += [self.peers_tell_shares, self.peer_tells_placement]
        rules += [self.host_stood_still, self.people_look]
        faults = [
            self.leave,
            self.stream_breaks,
            self.process_dies,
            self.process_freezes,
            self.process_hangs,
            self.worker_comes,
            self.worker_goes,
            self.role_flips,
            self.drains,
            self.mode_changes,
        ]
        return self._rng.choice((1, 8)) * rules + faults

    def run(self) -> None:
        """Raises whatever goes wrong in the router."""
        driven: list[asyncio.Task[None]] = []
        self._loop.at(100 * self._rng.random(), lambda: driven.append(self._begin()))
        self._loop.run()
        driven[0].result()

    def _begin(self) -> asyncio.Task[None]:
        config = any_config(self._rng, self._recording)
        parts = Parts(self._open_stream, watch=self._watched)
        self._router = Router(config, self._loop, SilentMetrics(), parts)
        driven = self._loop.create_task(self._drive())
        driven.add_done_callback(lambda done: self._loop.stop())
        return driven

    def _open_stream(self, address: str, config: RouterConfig, owner: StreamOwner) -> Stream:
        return Stream(self._by_address[address], owner)

    def _watched(self, config: RouterConfig, on_workers: OnWorkers) -> Watch:
        self._watch = Watch(on_workers)
        return self._watch

    async def _drive(self) -> None:
        rng, router = self._rng, self._router
        await router.start()
        for name in rng.sample(NAMES, rng.randint(2, len(NAMES))):
            self._new_process(name)
        self._list()
        for _ in range(self._num_steps):
            rng.choice(self._rules)()
            router.check_integrity()
            await self._pass(rng.choice(PAUSES_S if rng.random() < 0.97 else LONG_PAUSES_S))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await router.stop()

    async def _pass(self, seconds: float) -> None:
        """Who has been silent for long says at least how it is."""
        while seconds >= 0:
            await asyncio.sleep(min(seconds, BEAT_S))
            seconds -= BEAT_S
            for process in self._there():
                if self._loop.now() - process.spoke_s >= BEAT_S:
                    process.tell_report()

    # --- workers ------------------------------------------------------------------------------

    def _new_process(self, name: str) -> None:
        self._num_made += 1
        address = f"{name}:{self._num_made}"
        info = WorkerInfo(
            name,
            self._num_made,
            Role(name.partition("-")[0]),
            address,
            FabricAddress("127.0.0.1", 1),
            Fingerprint("m", "r", "float32", 16, LAYOUTS[self._rng.random() < 0.1]),
            4096,
            2000,
        )
        report = WorkerReport(info.role, num_blocks=2000, num_free_blocks=2000)
        process = Process(info, self._rng, report)
        self._processes[name] = self._by_address[address] = process
        self._listed[name] = info

    def _list(self) -> None:
        self._watch.on_workers(tuple(self._listed.values()), self._mode)

    def _relist(self, process: Process, **changes: object) -> None:
        process.info = replace(process.info, **changes)  # type: ignore[arg-type]
        if self._processes[process.info.worker_id] is process:
            if process.info.worker_id in self._listed:
                self._listed[process.info.worker_id] = process.info
            self._list()

    def _there(self) -> list[Process]:
        return [process for process in self._by_address.values() if process.is_there]

    def _tell(self, act: Callable[[Process], None], among: Sequence[Process]) -> None:
        if among:
            act(self._rng.choice(among))

    def report(self) -> None:
        self._tell(Process.tell_report, self._there())

    def blocks(self) -> None:
        self._tell(Process.tell_blocks, self._there())

    def legs_go_on(self) -> None:
        self._tell(Process.tell_legs, [process for process in self._there() if process.legs])

    def stream_breaks(self) -> None:
        self._tell(lambda process: process.breaks("the session was ended"), self._there())

    def process_dies(self) -> None:
        def dies(process: Process) -> None:
            process.is_dead = True
            process.breaks("the connection was reset")

        self._tell(dies, self._there())

    def process_freezes(self) -> None:
        """Or thaws: what it is told meanwhile, it does then."""
        process = self._rng.choice(list(self._by_address.values()))
        process.is_frozen = not process.is_frozen and self._rng.random() < 0.3

    def process_hangs(self) -> None:
        process = self._rng.choice(list(self._by_address.values()))
        process.hangs = not process.hangs and self._rng.random() < 0.5

    def worker_comes(self) -> None:
        lacking = [
            name for name in NAMES if name not in self._listed or self._processes[name].is_dead
        ]
        if lacking:
            self._new_process(self._rng.choice(lacking))
            self._list()

    def worker_goes(self) -> None:
        """The registry lists it no more, or again; its process lives on."""
        name = self._rng.choice(NAMES)
        if self._listed.pop(name, None) is None and name in self._processes:
            self._listed[name] = self._processes[name].info
        self._list()

    def role_flips(self) -> None:
        """The worker reports it first, or the registry tells it first."""

        def flips(process: Process) -> None:
            role = Role.DECODE if process.report.role is Role.PREFILL else Role.PREFILL
            epoch = max(process.info.role_epoch, process.report.role_epoch) + 1
            if self._rng.random() < 0.5:
                self._relist(process, role=role, role_epoch=epoch)
            process.report = replace(process.report, role=role, role_epoch=epoch)

        self._tell(flips, self._there())

    def drains(self) -> None:
        def drains(process: Process) -> None:
            if self._rng.random() < 0.5:
                self._relist(process, draining=not process.info.draining)
            else:
                draining = not process.report.draining
                process.report = replace(process.report, draining=draining)

        self._tell(drains, self._there())

    def mode_changes(self) -> None:
        self._mode = self._rng.choice((Mode.HYBRID, *Mode))
        self._list()

    def links_are_measured(self) -> None:
        rng = self._rng
        pairs = tuple(
            PairStatus(name, rng.uniform(0, 0.01), 10 ** rng.uniform(5, 9), "shm")
            for name in NAMES
            if rng.random() < 0.5
        )
        self._tell(lambda process: self._relist(process, pairs=pairs), self._there())

    # --- who asks -----------------------------------------------------------------------------

    def _request(self) -> GenerateRequest:
        rng = self._rng
        num_tokens, hashes = any_prompt(rng)
        self._num_made += 1
        terms = RequestTerms(
            tenant=rng.choice(("", "a")),
            session=rng.choice(SESSIONS),
            ttft_slo_s=rng.choice((0.0, 0.0, 0.2)),
            model=rng.choice(("", "", "m")),
        )
        sampling = SamplingParams(max_tokens=rng.choice((1, 3, 40, 40)))
        name, prompt, priority = f"r{self._num_made}", (5,) * num_tokens, rng.choice((0, 0, 1, -1))
        return GenerateRequest(name, prompt, sampling, hashes, priority, terms=terms)

    def request(self) -> None:
        task = self._loop.create_task(self._consume(self._request()))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _consume(self, request: GenerateRequest) -> None:
        with contextlib.suppress(BatonError):
            async for _ in self._router.generate(request):
                pass

    def leave(self) -> None:
        if self._tasks:
            self._rng.choice(list(self._tasks)).cancel()

    def place_outside(self) -> None:
        self._num_made += 1
        place_id, excluded = f"o{self._num_made}", (self._rng.choice(NAMES),)
        with contextlib.suppress(BatonError):
            self._router.place_outside(place_id, self._request(), excluded)
            self._outside.append(place_id)

    def outside_goes_on(self) -> None:
        if self._outside:
            outside = self._router.outside
            self._rng.choice((outside.started, outside.release))(self._rng.choice(self._outside))

    # --- who else tells, and who looks --------------------------------------------------------

    def peers_tell_shares(self) -> None:
        rng = self._rng
        shares = {
            (name, process.info.epoch): LoadShare(*(rng.randint(0, 5) for _ in range(5)))
            for name, process in self._processes.items()
            if rng.random() < 0.5
        }
        self._router._core.sessions.set_elsewhere(shares)

    def peer_tells_placement(self) -> None:
        rng = self._rng
        workers, session = tuple(rng.sample(NAMES, 2)), rng.choice(SESSIONS)
        note = PlacementNote(workers, any_prompt(rng)[1], session, workers[0], {})
        self._router._core.notes.take(note, rng.choice((0.0, 0.5, 3.0)), self._loop.now())

    def host_stood_still(self) -> None:
        for session in self._router._core.sessions.all():
            session.forgive(0.3)

    def look(self) -> None:
        """As admission, the metrics and migration do at any time."""
        if self._looks:
            self._router._core.sessions.view()
            self._router._core.breaker.open_workers(self._loop.now())

    def people_look(self) -> None:
        if self._looks:
            self._router.snapshot()
            self._router.recent_traces(5, slowest=True)
            self._router._core.sessions.own_shares()
