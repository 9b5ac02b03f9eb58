"""Who may use the server: the file of API keys, and what each tenant is allowed."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

MAX_WEIGHT = 1e6
_SALT_SEPARATOR = "\x1f"


class TenantFileError(Exception):
    """A file of tenants that cannot be used; the message names it and says why."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    key_sha256: list[str]
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    highest_priority: int | None = None
    cache_salt: str | None = None
    weight: float = 1.0
    models: list[str] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenants: list[_Entry]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A limit of 0 is none. highest_priority: the lowest number that a request may carry, since
    lower numbers go first. cache_salt: keeps the prefix caches of tenants apart. weight: the share
    of the cluster's work that the tenant gets beside others whose requests wait. models: those it
    may use; None: all.
    """

    name: str = ""
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    highest_priority: int | None = None
    cache_salt: str = ""
    weight: float = 1.0
    models: frozenset[str] | None = None

    @property
    def own_priority(self) -> int:
        """Of requests that carry none: 0, or the nearest to it that the tenant may have."""
        return max(0, self.highest_priority or 0)

    def salted(self, asked: str) -> str:
        """The salt of a request that asks for one of its own: no tenant can name another's."""
        return f"{self.cache_salt}{_SALT_SEPARATOR}{asked}" if self.cache_salt else asked


ANYONE = Tenant()  # of a server without a file of tenants


def key_digest(key: str) -> str:
    """What stands in the file for an API key: `printf %s KEY | sha256sum`."""
    return sha256(key.encode()).hexdigest()


def read_tenants(path: Path) -> Mapping[str, Tenant]:
    """Tenants by the digest of each of their keys. Raises TenantFileError.

    The file is TOML: a [[tenants]] table for each, with `name`, `key_sha256` (a list), and
    optionally `requests_per_minute`, `tokens_per_minute`, `highest_priority`, `cache_salt`,
    `weight`, `models`.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TenantFileError(f"{path} cannot be read: {error}") from error
    return tenants_of(tables, str(path))


def tenants_of(tables: Mapping[str, object], path: str) -> Mapping[str, Tenant]:
    """Tenants by the digest of each of their keys. path: where the tables come from.

    Raises TenantFileError.
    """
    try:
        content = msgspec.convert(tables, _File)
    except msgspec.ValidationError as error:
        raise TenantFileError(f"{path}: {error}") from error
    tenants: dict[str, Tenant] = {}
    names: set[str] = set()
    for entry in content.tenants:
        if not entry.name or entry.name in names:
            raise TenantFileError(f"{path}: the name {entry.name!r} is empty or there twice")
        names.add(entry.name)
        if not 0 < entry.weight <= MAX_WEIGHT:
            reason = f"must be over 0, at most {MAX_WEIGHT:g}, is {entry.weight:g}"
            raise TenantFileError(f"{path}: the weight of {entry.name} {reason}")
        for digest in entry.key_sha256:
            if len(digest) != 64 or digest.lower() in tenants:
                reason = "is no SHA-256 in hexadecimal, or there twice"
                raise TenantFileError(f"{path}: a key_sha256 of {entry.name} {reason}")
            tenants[digest.lower()] = _tenant(entry)
    return tenants


def _tenant(entry: _Entry) -> Tenant:
    return Tenant(
        name=entry.name,
        requests_per_minute=max(0, entry.requests_per_minute),
        tokens_per_minute=max(0, entry.tokens_per_minute),
        highest_priority=entry.highest_priority,
        cache_salt=f"tenant:{entry.name}" if entry.cache_salt is None else entry.cache_salt,
        weight=entry.weight,
        models=None if entry.models is None else frozenset(entry.models),
    )
