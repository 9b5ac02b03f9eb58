"""The policies by the name that the configuration uses, with settings behind a colon."""

from dataclasses import fields, is_dataclass
from typing import Any

from router.policies.dynamo_cost import DynamoCost
from router.policies.least_load import least_load
from router.policies.llm_d_gate import LlmDGate
from router.policies.mooncake_conductor import MooncakeConductor
from router.policies.policy import Policy
from router.policies.power_of_two import PowerOfTwo
from router.policies.ppd_static import PpdStatic
from router.policies.predicted import Predicted
from router.policies.random_choice import RandomChoice
from router.policies.round_robin import round_robin
from router.policies.session_hash import SessionHash
from router.policies.sglang_cache_aware import SglangCacheAware
from router.policies.uncached_tokens import uncached_tokens

POLICIES: dict[str, Policy] = {
    "uncached_tokens": uncached_tokens,
    "least_load": least_load,
    "round_robin": round_robin,
    "random": RandomChoice(),
    "power_of_two": PowerOfTwo(),
    "session_hash": SessionHash(),
    "dynamo": DynamoCost(),
    "llm_d": LlmDGate(),
    "sglang": SglangCacheAware(),
    "mooncake": MooncakeConductor(),
    "ppd": PpdStatic(),
    "predicted": Predicted(),
}


def policy_names(policy: str, shadows: str) -> tuple[str, ...]:
    """The live policy's and those of its shadows, which are parted by semicolons."""
    return (policy, *(name.strip() for name in shadows.split(";") if name.strip()))


def policy_named(text: str) -> Policy:
    """The policy of a name such as `dynamo` or `dynamo:overlap_weight=2,temperature=0.1`.

    Raises ValueError that names what is unknown.
    """
    name, _, settings = text.partition(":")
    policy = POLICIES.get(name)
    if policy is None:
        raise ValueError(f"no policy {name!r}; there are {', '.join(POLICIES)}")
    values = dict(_setting(text, part) for part in settings.split(",") if part)
    if not values:
        return policy
    kind: type[Any] = type(policy)
    known = {field.name: field.type for field in fields(kind)} if is_dataclass(kind) else {}
    for key in values:
        if key not in known:
            raise ValueError(f"policy {text!r}: {name} has no setting {key!r}, only {list(known)}")
    tuned: Policy = kind(**{k: int(v) if known[k] is int else v for k, v in values.items()})
    return tuned


def _setting(text: str, part: str) -> tuple[str, float]:
    key, _, value = part.partition("=")
    try:
        return key.strip(), float(value)
    except ValueError:
        raise ValueError(f"policy {text!r}: {part!r} is not a setting such as match=0.5") from None
