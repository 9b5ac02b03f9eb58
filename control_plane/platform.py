"""Builds what acts and who may, by name; each library is loaded only where it is chosen."""

import asyncio
import os
import random
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

from control_plane.actuators.actuator import Actuator
from control_plane.config import ControlConfig
from control_plane.leadership import Leadership, SoleLeadership, holder_name
from control_plane.state.memory_store import MemoryStore
from control_plane.state.store import StateStore
from runtime.clock import Clock, SystemClock, wall_time_s
from runtime.log import get_logger
from runtime.settings import SettingsError
from wire.messages import Role

_UNREADY_PERIOD_S = 5.0
_log = get_logger("control_plane")


class RemoteActuator(Actuator, Protocol):
    """An actuator that first has to find its platform, and looks after late workers."""

    async def start(self) -> None: ...

    async def replace_unready(self) -> tuple[str, ...]: ...


def identity_of(config: ControlConfig) -> str:
    return config.identity or f"{socket.gethostname()}-{os.getpid()}"


def candidate_of(config: ControlConfig) -> str:
    """The name in an election: it tells the others where the operator API is reached."""
    return holder_name(identity_of(config), config.reachable_url)


def leadership_of(config: ControlConfig, clock: Clock) -> Leadership:
    """Raises SettingsError for an unknown election or a store that cannot be named."""
    builds: Mapping[str, Callable[[ControlConfig, Clock], Leadership]] = {
        "none": lambda config, clock: SoleLeadership(identity_of(config)),
        "redis": _redis_leadership,
        "kubernetes": _kube_leadership,
    }
    if config.election not in builds:
        known = ", ".join(builds)
        raise SettingsError(f"election: {config.election!r} is not one of {known}")
    return builds[config.election](config, clock)


def actuator_of(
    config: ControlConfig,
    leadership: Leadership,
    serving: Callable[[], Mapping[str, Role]] = dict,
) -> RemoteActuator | None:
    """None for advisory. serving: the live workers' roles by id. Raises SettingsError for an
    unknown actuator or a wrong target."""
    builds: Mapping[str, Callable[[], RemoteActuator | None]] = {
        "advisory": lambda: None,
        "kubernetes": lambda: _kube_actuator(config, leadership),
        "ray": lambda: _ray_actuator(config, leadership, serving),
    }
    if config.actuator not in builds:
        known = ", ".join(builds)
        raise SettingsError(f"actuator: {config.actuator!r} is not one of {known}")
    return builds[config.actuator]()


def store_of(config: ControlConfig) -> StateStore:
    """Raises SettingsError for an unknown state or a Redis that cannot be named."""
    builds: Mapping[str, Callable[[ControlConfig], StateStore]] = {
        "memory": lambda config: MemoryStore(),
        "redis": _redis_store,
    }
    if config.state not in builds:
        known = ", ".join(builds)
        raise SettingsError(f"state: {config.state!r} is not one of {known}")
    return builds[config.state](config)


async def watch_unready(actuator: RemoteActuator, leadership: Leadership) -> None:
    """Replaces late workers while this process leads, until cancelled."""
    while True:
        await asyncio.sleep(_UNREADY_PERIOD_S)
        if not leadership.term().is_me:
            continue
        try:
            for name in await actuator.replace_unready():
                _log.warning("worker replaced", worker=name, reason="it was not ready in time")
        except Exception:  # a task's edge: the next period tries again
            _log.exception("late workers were not replaced")


def _redis_store(config: ControlConfig) -> StateStore:
    from control_plane.state.redis_store import RedisStore

    if config.state_ttl_s <= 0:
        raise SettingsError(f"state_ttl_s is {config.state_ttl_s}, not above 0")
    try:
        return RedisStore(config.redis_url, "baton:control", config.state_ttl_s)
    except ValueError as error:
        raise SettingsError(f"redis_url: {error}") from error


def _redis_leadership(config: ControlConfig, clock: Clock) -> Leadership:
    from redis.asyncio import Redis

    from control_plane.state.redis_lease import RedisLeadership

    try:
        redis = Redis.from_url(config.redis_url, socket_timeout=2.0, socket_connect_timeout=2.0)
    except ValueError as error:
        raise SettingsError(f"redis_url: {error}") from error
    return RedisLeadership(redis, "baton", candidate_of(config), clock, config.leader_lease_s)


def _kube_leadership(config: ControlConfig, clock: Clock) -> Leadership:
    from control_plane.actuators.kube_api import KubeError, connect
    from control_plane.kube_lease import KubeLeadership

    try:
        api = connect(config.kubeconfig)
    except KubeError as error:
        raise SettingsError(f"election: {error}") from error
    identity = candidate_of(config)
    return KubeLeadership(
        api,
        config.kube_namespace,
        config.kube_lease,
        identity,
        clock,
        wall_time_s,
        config.leader_lease_s,
    )


def _ray_actuator(
    config: ControlConfig, leadership: Leadership, serving: Callable[[], Mapping[str, Role]]
) -> RemoteActuator:
    from control_plane.actuators.ray_platform import RayPlatform

    return RayPlatform(config, SystemClock(), serving, leadership.confirm)


def _kube_actuator(config: ControlConfig, leadership: Leadership) -> RemoteActuator:
    from control_plane.actuators.kube_api import KubeError, connect
    from control_plane.actuators.kubernetes import KubernetesActuator, KubeTarget

    named = {Role.PREFILL: config.kube_prefill, Role.DECODE: config.kube_decode}
    try:
        targets = {role: KubeTarget.parse_all(text) for role, text in named.items()}
        api = connect(config.kubeconfig)
    except (KubeError, ValueError) as error:
        raise SettingsError(f"actuator: {error}") from error
    return KubernetesActuator(
        api,
        config.kube_namespace,
        targets,
        wall_s=wall_time_s,
        now_s=SystemClock().now,
        jitter=random.random,
        confirm=leadership.confirm,
        ready_timeout_s=config.ready_timeout_s,
    )
