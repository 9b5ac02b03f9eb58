"""The cluster as the control plane tells it; the last word counts while it is away."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from router.config import RouterConfig
from runtime.log import get_logger
from wire.channel_ring import ChannelRing
from wire.cluster import ClusterSnapshot, Mode, PoolProgress, ServingMode, WorkerInfo
from wire.rpc import Channel, RpcError, watch

_log = get_logger("router")


class ClusterWatch:
    """Hands every list of workers to `on_workers`, with the mode to serve in, and reconnects with
    backoff.

    A control plane that restarted lists only workers that have beaten since: for
    relist_grace_s after a connection, known workers that are missing are kept. It is told the mode
    that was told last, and one of an older epoch is not followed.
    """

    def __init__(
        self, config: RouterConfig, on_workers: Callable[[Sequence[WorkerInfo], Mode], None]
    ) -> None:
        self._config = config
        self._on_workers = on_workers
        self._known: dict[str, WorkerInfo] = {}
        self._listed: tuple[WorkerInfo, ...] = ()
        self._is_settled = False
        self._is_connected = False
        self._pools: tuple[PoolProgress, ...] = ()
        self._serving = ServingMode()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._is_connected

    @property
    def pools(self) -> tuple[PoolProgress, ...]:
        """How far the platform is, where workers lack; as told last."""
        return self._pools

    @property
    def serving(self) -> ServingMode:
        """The mode that is followed."""
        return self._serving

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        ring = ChannelRing(self._config.control_address)
        backoff_s = self._config.reconnect_min_s
        last_reason = ""
        try:
            while True:
                reason = await self._follow(ring.channel)
                if self._is_connected:
                    backoff_s = self._config.reconnect_min_s
                if self._is_connected or reason != last_reason:
                    _log.warning("no control plane", reason=reason)
                self._is_connected, last_reason = False, reason
                await ring.move_on()
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, self._config.reconnect_max_s)
        finally:
            await ring.close()

    async def _follow(self, channel: Channel) -> str:
        """Reads one stream to its end; returns why it ended."""
        loop = asyncio.get_running_loop()
        self._is_settled = not self._known
        settling: asyncio.TimerHandle | None = None
        try:
            async for snapshot in watch(
                channel, self._config.client_id, self._config.cluster_token, self._serving
            ):
                self._is_connected = True
                if settling is None:
                    settling = loop.call_later(self._config.relist_grace_s, self._settle)
                self._take(snapshot)
        except RpcError as error:
            return f"{error.code().name}: {error.details()}"
        except ValueError as error:
            return f"its snapshot cannot be read: {error}"
        finally:
            if settling is not None:
                settling.cancel()
        return "it ended the stream"

    def _take(self, snapshot: ClusterSnapshot) -> None:
        self._listed, self._pools = snapshot.workers, snapshot.pools
        workers = {info.worker_id: info for info in snapshot.workers}
        self._known = workers if self._is_settled else {**self._known, **workers}
        if snapshot.serving.epoch > self._serving.epoch:
            self._serving = snapshot.serving
            _log.info("serving mode", mode=self._serving.mode.value, epoch=self._serving.epoch)
        self._on_workers(tuple(self._known.values()), self._serving.mode)

    def _settle(self) -> None:
        self._is_settled = True
        self._known = {info.worker_id: info for info in self._listed}
        self._on_workers(tuple(self._known.values()), self._serving.mode)
