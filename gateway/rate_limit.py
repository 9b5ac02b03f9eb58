"""Limits per minute, as buckets that fill up evenly."""

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


class Account:
    """What one tenant has used of its limits in this process."""

    def __init__(self, tenant: Tenant, clock: Clock) -> None:
        self.tenant = tenant
        self._requests = Bucket(tenant.requests_per_minute, clock)
        self._tokens = Bucket(tenant.tokens_per_minute, clock)

    def update(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._requests.resize(tenant.requests_per_minute)
        self._tokens.resize(tenant.tokens_per_minute)

    def take_request(self) -> None:
        """Raises ApiError 429 when the minute's requests are used up."""
        _refuse_after(self._requests.wait_s(1), "requests", self._requests.per_minute)
        self._requests.spend(1)

    def take_prompt(self, num_tokens: int) -> None:
        """Raises ApiError 429 when the minute's tokens do not hold the prompt."""
        _refuse_after(self._tokens.wait_s(num_tokens), "tokens", self._tokens.per_minute)
        self._tokens.spend(num_tokens)

    def spend_tokens(self, num_tokens: int) -> None:
        """Generated tokens: how many there will be is not known before."""
        self._tokens.spend(num_tokens)

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
