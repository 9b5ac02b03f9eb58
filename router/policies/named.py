"""The policies by the name that the configuration uses."""

from router.policies.least_load import least_load
from router.policies.policy import Policy
from router.policies.round_robin import round_robin
from router.policies.uncached_tokens import uncached_tokens

POLICIES: dict[str, Policy] = {
    "uncached_tokens": uncached_tokens,
    "least_load": least_load,
    "round_robin": round_robin,
}
