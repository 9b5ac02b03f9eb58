"""A cluster described in TOML: pools of hardware, links between zones, classes of requests."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from profiles.catalog import ProfileError, load_profile, with_host_memory
from profiles.profile import Profile
from runtime.sizes import parse_bytes
from simulate.errors import SimulationError
from simulate.links import LinkClass
from simulate.slo_class import SloClass
from simulate.spec import ClusterSpec, PoolSpec
from wire.block_hash import BLOCK_SIZE
from wire.messages import Role


class _Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Role
    profile: str
    count: int
    tp: int = 0
    kv_tokens: int = 0
    host_kv_memory: str = "0"
    zone: str = ""
    usd_per_gpu_hour: float | None = None


class _Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    zones: tuple[str, str]
    gbit_per_s: float
    latency_ms: float = 0.5


class _Class(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    ttft_ms: float
    tpot_ms: float
    share: float = 0.0
    match: str = ""
    priority: int = 0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pool: tuple[_Pool, ...]
    link: tuple[_Link, ...] = ()
    slo: tuple[_Class, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """What a file says, checked. slos: as `--slo` takes them."""

    pools: tuple[PoolSpec, ...]
    links: tuple[LinkClass, ...]
    classes: tuple[SloClass, ...]

    @property
    def slos(self) -> tuple[str, ...]:
        return tuple(
            f"{one.name}=ttft:{one.ttft_ms:g} tpot:{one.tpot_ms:g}" for one in self.classes
        )

    def applied_to(self, spec: ClusterSpec) -> ClusterSpec:
        """The pools' first hardware of each role is what is added at run time."""
        first = {pool.role: pool.profile for pool in reversed(self.pools)}
        counts = {role: sum(p.count for p in self.pools if p.role is role) for role in Role}
        return replace(
            spec,
            num_prefill=counts[Role.PREFILL],
            num_decode=counts[Role.DECODE],
            prefill_profile=first.get(Role.PREFILL, self.pools[0].profile),
            decode_profile=first.get(Role.DECODE, self.pools[0].profile),
            pools=self.pools,
            links=self.links,
            classes=self.classes,
        )


def read_cluster_file(path: Path) -> ClusterFile:
    """Raises SimulationError, which names the table and the limit."""
    try:
        values = tomllib.loads(path.read_text())
        file = msgspec.convert(values, _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SimulationError(f"cannot read the cluster file {path}: {error}") from error
    except msgspec.ValidationError as error:
        raise SimulationError(f"{path}: {error}") from error
    if not file.pool:
        raise SimulationError(f"{path}: no [[pool]]")
    pools = tuple(_pool(f"{path}: pool {n}", pool) for n, pool in enumerate(file.pool, 1))
    zones = {pool.zone for pool in pools}
    links = tuple(_link(f"{path}: link {n}", link, zones) for n, link in enumerate(file.link, 1))
    return ClusterFile(pools, links, _classes(path, file.slo))


def _pool(where: str, pool: _Pool) -> PoolSpec:
    if pool.count < 0 or pool.tp < 0:
        raise SimulationError(f"{where}: count {pool.count} and tp {pool.tp} must be 0 or more")
    if pool.tp and pool.profile.endswith(".toml"):
        raise SimulationError(f"{where}: tp goes with a named profile, not with {pool.profile}")
    name = f"{pool.profile.partition('x')[0]}x{pool.tp}" if pool.tp > 1 else pool.profile
    try:
        profile = load_profile(name)
    except ProfileError as error:
        raise SimulationError(f"{where}: {error}") from error
    return PoolSpec(pool.role, pool.count, _changed(where, profile, pool), pool.zone)


def _changed(where: str, profile: Profile, pool: _Pool) -> Profile:
    if pool.kv_tokens and not BLOCK_SIZE <= pool.kv_tokens <= profile.kv_tokens:
        limit = f"{BLOCK_SIZE} .. {profile.kv_tokens}"
        raise SimulationError(f"{where}: kv_tokens {pool.kv_tokens} is not within {limit}")
    usd = pool.usd_per_gpu_hour
    if usd is not None and not 0 <= usd < float("inf"):
        raise SimulationError(f"{where}: usd_per_gpu_hour {usd} is no price")
    try:
        profile = with_host_memory(profile, parse_bytes(pool.host_kv_memory))
    except ValueError as error:
        raise SimulationError(f"{where}: host_kv_memory: {error}") from error
    return replace(
        profile,
        kv_tokens=pool.kv_tokens or profile.kv_tokens,
        usd_per_hour=profile.usd_per_hour if usd is None else usd * profile.num_gpus,
    )


def _link(where: str, link: _Link, zones: set[str]) -> LinkClass:
    unknown = set(link.zones) - zones
    if unknown:
        raise SimulationError(f"{where}: no pool is in zone {', '.join(sorted(unknown))}")
    if not 0 < link.gbit_per_s < float("inf") or not 0 <= link.latency_ms < float("inf"):
        raise SimulationError(f"{where}: {link.gbit_per_s} Gbit/s, {link.latency_ms} ms")
    return LinkClass(link.zones, link.gbit_per_s * 1e9 / 8, link.latency_ms / 1e3)


def _classes(path: Path, classes: tuple[_Class, ...]) -> tuple[SloClass, ...]:
    names = [one.name for one in classes]
    for one in classes:
        where = f"{path}: slo {one.name!r}"
        if not one.name or names.count(one.name) > 1:
            raise SimulationError(f"{where}: each class has a name of its own")
        if one.ttft_ms <= 0 or one.tpot_ms <= 0:
            raise SimulationError(f"{where}: ttft_ms and tpot_ms must be positive")
        if bool(one.share) == bool(one.match) or not 0 <= one.share <= 1:
            raise SimulationError(f"{where}: either a share within 0 .. 1 or a match")
    total = sum(one.share for one in classes)
    if total > 1 + 1e-9:
        raise SimulationError(f"{path}: the shares of the classes add up to {total:g}, over 1")
    return tuple(
        SloClass(one.name, one.ttft_ms, one.tpot_ms, one.share, one.match, one.priority)
        for one in classes
    )
