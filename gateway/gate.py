"""Knows a request's tenant by its API key; the file of keys may change while the server runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.errors import ApiError
from gateway.rate_limit import Account
from gateway.tenants import ANYONE, Tenant, TenantFileError, key_digest, read_tenants
from runtime.clock import Clock
from runtime.log import get_logger

_LOOK_EVERY_S = 1.0
_log = get_logger("gateway")
_Stamp = tuple[int, int, int]  # inode, size and time of change of a file


class Gate:
    """Owns the accounts. Without tenants everybody is one without limits."""

    def __init__(
        self,
        path: Path | None,
        clock: Clock,
        tenants: Mapping[str, Tenant] | None = None,
        num_processes: int = 1,
    ) -> None:
        """tenants: by the digest of their keys, where no file has them; take() changes them.
        num_processes: that share each tenant's limits evenly.

        Raises TenantFileError for a file that cannot be used.
        """
        self._path = path
        self._is_open = path is None and tenants is None
        self._clock = clock
        self._num_processes = num_processes
        self._anyone = Account(ANYONE, clock)
        self._accounts: dict[str, Account] = {}  # by the tenant's name
        self._by_digest: Mapping[str, Tenant] = {}
        self._looked_s = clock.now()
        self._stamp = _stamp(path)
        if tenants is not None:
            self.take(tenants)
        if path is not None:
            self.take(read_tenants(path))

    def account(self, headers: Iterable[tuple[bytes, bytes]]) -> Account:
        """Raises ApiError 401 without the key of a tenant."""
        if self._is_open:
            return self._anyone
        if self._path is not None:
            self._look_at(self._path)
        key = _key(headers)
        if not key:
            raise _unauthorized("the request has no API key: send Authorization: Bearer KEY")
        tenant = self._by_digest.get(key_digest(key))
        if tenant is None:
            raise _unauthorized("the API key is not known")
        return self._accounts[tenant.name]

    def limited_accounts(self) -> list[Account]:
        """Of the tenants that have limits."""
        return [account for account in self._accounts.values() if account.is_limited]

    def _look_at(self, path: Path) -> None:
        """Reads the file again after a change. One that cannot be used changes nothing."""
        now_s = self._clock.now()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.take(read_tenants(path))
        except TenantFileError as error:
            _log.warning("the tenants stay as they were", reason=str(error))
        else:
            _log.info("tenants read again", num_keys=len(self._by_digest))

    def take(self, by_digest: Mapping[str, Tenant]) -> None:
        """From now on these are the tenants; what they have spent stays spent."""
        self._by_digest = by_digest
        for tenant in by_digest.values():
            account = self._accounts.get(tenant.name)
            if account is None:
                self._accounts[tenant.name] = Account(tenant, self._clock, self._num_processes)
            else:
                account.update(tenant)


def _stamp(path: Path | None) -> _Stamp | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """OpenAI's clients send Authorization, Anthropic's x-api-key."""
    by_name = dict(headers)
    scheme, _, key = by_name.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return by_name.get(b"x-api-key", b"").decode("latin-1").strip()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")
