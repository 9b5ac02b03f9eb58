"""Leader election by a Kubernetes Lease, with the rules of client-go's LeaseLock."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

from kubernetes import client

from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused
from control_plane.actuators.kube_api import call
from control_plane.candidacy import Candidacy
from control_plane.leadership import NotLeader, Term
from runtime.clock import Clock
from runtime.log import get_logger

_HIGHEST_TRANSITIONS = (1 << 31) - 2  # 32 bits in the Lease
_log = get_logger("control_plane")


class KubeLeadership:
    """A `Leadership`. The fencing number is the Lease's leaseTransitions.

    Others' leases are judged by this process's own clock, from when it saw them change, never by
    the times written in them: clocks of two hosts differ.
    """

    backend = "kubernetes"

    def __init__(
        self,
        api: client.ApiClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        wall_s: Callable[[], float],
        lease_s: float = 15.0,
    ) -> None:
        self._api = client.CoordinationV1Api(api)
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._wall_s = wall_s
        self._lease_s = lease_s
        self._known = Candidacy(identity, clock, lease_s, _HIGHEST_TRANSITIONS)
        self._seen: tuple[str, str] | None = None  # holder and renewTime, as last seen
        self._seen_at_s = -float("inf")
        self._task: asyncio.Task[None] | None = None

    def term(self) -> Term:
        return self._known.term()

    async def confirm(self) -> int:
        """Renews the lease: the server takes that only from who still holds it."""
        await self.step()
        term = self.term()
        if not term.is_me:
            raise NotLeader("" if term.holder == self._identity else term.holder)
        return term.token

    def heard(self, token: int) -> None:
        self._known.hears(token)

    async def start(self) -> None:
        await self._try_step()
        self._task = asyncio.create_task(self._run(), name="lease")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.term().is_me:
            with contextlib.suppress(ActuatorConflict, ActuatorRefused):
                lease = await self._read()
                if lease is not None and lease.spec.holder_identity == self._identity:
                    lease.spec.holder_identity = ""
                    await self._replace(lease)
        self._known.sees("", self._known.token)

    async def step(self) -> None:
        """Takes or renews the lease if it may. Raises ActuatorConflict where the server does not
        answer, ActuatorRefused where it forbids."""
        begun_s = self._clock.now()
        lease = await self._read()
        if lease is None:
            await self._create(begun_s)
            return
        holder = lease.spec.holder_identity or ""
        if holder not in ("", self._identity) and not self._has_run_out(lease):
            self._known.sees(holder, lease.spec.lease_transitions or 0)
            return
        transitions = lease.spec.lease_transitions or 0
        if holder != self._identity or transitions < self._known.heard:
            lease.spec.lease_transitions = max(transitions, self._known.heard) + 1
            lease.spec.acquire_time = self._now()
        lease.spec.holder_identity = self._identity
        lease.spec.lease_duration_seconds = max(1, round(self._lease_s))
        lease.spec.renew_time = self._now()
        try:
            await self._replace(lease)
        except ActuatorConflict:
            self._known.sees("", self._known.token)  # somebody was faster; the next step shows who
            return
        self._held(lease.spec.lease_transitions or 0, begun_s)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 5)
            await self._try_step()

    async def _try_step(self) -> None:
        was_me = self.term().is_me
        try:
            await self.step()
        except (ActuatorConflict, ActuatorRefused) as error:
            _log.warning("the lease cannot be renewed", reason=str(error))
        if self.term().is_me is not was_me:
            known = self._known
            _log.info("leadership", holder=known.holder, is_me=not was_me, token=known.token)

    async def _create(self, begun_s: float) -> None:
        spec = client.V1LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, round(self._lease_s)),
            acquire_time=self._now(),
            renew_time=self._now(),
            lease_transitions=self._known.heard + 1,
        )
        metadata = client.V1ObjectMeta(name=self._name, namespace=self._namespace)
        lease = client.V1Lease(metadata=metadata, spec=spec)
        with contextlib.suppress(ActuatorConflict):  # somebody was faster
            create = self._api.create_namespaced_lease
            await call(f"create lease {self._name}", create, self._namespace, lease)
            self._held(self._known.heard + 1, begun_s)

    async def _read(self) -> client.V1Lease | None:
        read = self._api.read_namespaced_lease
        try:
            return await call(f"read lease {self._name}", read, self._name, self._namespace)
        except ActuatorRefused as error:
            cause = error.__cause__
            if isinstance(cause, client.ApiException) and cause.status == 404:
                return None
            raise

    async def _replace(self, lease: client.V1Lease) -> None:
        """With the resourceVersion that was read: the server refuses it after any other write."""
        replace = self._api.replace_namespaced_lease
        await call(f"renew lease {self._name}", replace, self._name, self._namespace, lease)

    def _held(self, token: int, begun_s: float) -> None:
        self._known.sees(self._identity, token)
        self._known.renewed(begun_s)

    def _has_run_out(self, lease: client.V1Lease) -> bool:
        seen = (lease.spec.holder_identity or "", str(lease.spec.renew_time))
        if seen != self._seen:
            self._seen, self._seen_at_s = seen, self._clock.now()
        duration_s = lease.spec.lease_duration_seconds or self._lease_s
        return self._clock.now() - self._seen_at_s > duration_s

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_s(), UTC)
