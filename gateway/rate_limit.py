"""Limits per minute, as buckets that fill up evenly."""

from dataclasses import dataclass

from gateway.errors import ApiError
from gateway.tenants import Tenant
from runtime.clock import Clock

_MINUTE_S = 60.0


class Bucket:
    """Holds up to a minute's allowance. What is spent unasked may take it below zero."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        """per_minute 0: without limit."""
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_s = clock.now()

    @property
    def level(self) -> float:
        now_s = self._clock.now()
        gained = (now_s - self._filled_s) * self.per_minute / _MINUTE_S
        self._filled_s = now_s
        self._level = min(float(self.per_minute), self._level + gained)
        return self._level

    def wait_s(self, amount: float) -> float:
        """How long until `amount` is there, or a full bucket if it is more; 0: it is there."""
        if not self.per_minute:
            return 0.0
        missing = min(amount, self.per_minute) - self.level
        return max(0.0, missing * _MINUTE_S / self.per_minute)

    def spend(self, amount: float) -> None:
        if self.per_minute:
            self._level = self.level - amount

    def resize(self, per_minute: int) -> None:
        """Another limit from now on; what was spent stays spent."""
        if per_minute != self.per_minute:
            spent = max(0.0, self.per_minute - self.level)
            self.per_minute = per_minute
            self._level = per_minute - spent


@dataclass(frozen=True, slots=True)
class Spent:
    """Requests and tokens that a tenant has used."""

    requests: int = 0
    tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.requests + other.requests, self.tokens + other.tokens)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.requests - other.requests, self.tokens - other.tokens)


class Account:
    """What one tenant has used of its limits in this process."""

    def __init__(self, tenant: Tenant, clock: Clock, num_processes: int = 1) -> None:
        """num_processes: they share the limits evenly."""
        self.tenant = tenant
        self._num_processes = num_processes
        self._num_requests = 0
        self._num_tokens = 0
        self._requests = Bucket(self._share(tenant.requests_per_minute), clock)
        self._tokens = Bucket(self._share(tenant.tokens_per_minute), clock)

    @property
    def is_limited(self) -> bool:
        return bool(self.tenant.requests_per_minute or self.tenant.tokens_per_minute)

    @property
    def spent(self) -> Spent:
        """In this process since it began."""
        return Spent(self._num_requests, self._num_tokens)

    def spend_elsewhere(self, spent: Spent) -> None:
        """What other gateways granted counts here, too."""
        self._requests.spend(spent.requests)
        self._tokens.spend(spent.tokens)

    def update(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._requests.resize(self._share(tenant.requests_per_minute))
        self._tokens.resize(self._share(tenant.tokens_per_minute))

    def take_request(self) -> None:
        """Raises ApiError 429 when the minute's requests are used up."""
        _refuse_after(self._requests.wait_s(1), "requests", self._requests.per_minute)
        self._requests.spend(1)
        self._num_requests += 1

    def take_prompt(self, num_tokens: int) -> None:
        """Raises ApiError 429 when the minute's tokens do not hold the prompt."""
        _refuse_after(self._tokens.wait_s(num_tokens), "tokens", self._tokens.per_minute)
        self.spend_tokens(num_tokens)

    def spend_tokens(self, num_tokens: int) -> None:
        """Generated tokens: how many there will be is not known before."""
        self._tokens.spend(num_tokens)
        self._num_tokens += num_tokens

    def _share(self, per_minute: int) -> int:
        """At least one, as 0 would be no limit."""
        return max(1, per_minute // self._num_processes) if per_minute else 0

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's, for the limits that there are."""
        return [
            header
            for name, bucket in ((b"requests", self._requests), (b"tokens", self._tokens))
            if bucket.per_minute
            for header in (
                (b"x-ratelimit-limit-" + name, b"%d" % bucket.per_minute),
                (b"x-ratelimit-remaining-" + name, b"%d" % max(0, int(bucket.level))),
                (b"x-ratelimit-reset-" + name, b"%.3fs" % bucket.wait_s(bucket.per_minute)),
            )
        ]


def _refuse_after(wait_s: float, what: str, per_minute: int) -> None:
    if wait_s > 0:
        raise ApiError(
            429,
            f"the limit of {per_minute} {what} per minute is reached; try again in {wait_s:.1f} s",
            code="rate_limit_exceeded",
            retry_after_s=wait_s,
        )
