"""How whole systems place requests, by name: a policy, and when a decode worker prefills itself."""

from dataclasses import dataclass, replace

from router.policies.named import POLICIES, policy_named

_DEFAULT_LOCAL_TOKENS = 16  # RouterConfig.local_prefill_max_tokens


class StrategyError(ValueError):
    """A strategy that does not exist or cannot be tuned so."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """policy: as router.policies.named takes it. local_tokens: an uncached rest up to this is
    computed by the decode worker; 0 prefills remotely always. source: whose published rule it is.
    """

    name: str
    policy: str
    local_tokens: int
    source: str


_KNOWN = (
    Strategy("baton", "uncached_tokens", _DEFAULT_LOCAL_TOKENS, "this project's cold rule"),
    Strategy("predicted", "predicted", _DEFAULT_LOCAL_TOKENS, "this project's default"),
    Strategy("always_remote", "uncached_tokens", 0, "plain disaggregation: DistServe, OSDI 2024"),
    Strategy("random", "random", 0, "uniform choice"),
    Strategy("round_robin", "round_robin", 0, "each in turn"),
    Strategy("least_load", "least_load", 0, "least queue for prefill, least batch for decode"),
    Strategy("power_of_two", "power_of_two", 0, "Mitzenmacher, TPDS 2001"),
    Strategy("session_hash", "session_hash", 0, "session affinity: vLLM production-stack"),
    Strategy("dynamo", "dynamo", 0, "NVIDIA Dynamo's KV router, cost of its documentation"),
    Strategy("llm_d", "llm_d", 512, "llm-d-router: affinity gate, token load, static threshold"),
    Strategy("sglang", "sglang", 0, "SGLang's cache-aware router"),
    Strategy("mooncake", "mooncake", 0, "Mooncake's Algorithm 1, FAST 2025"),
    Strategy("ppd", "ppd", 2048, "PPD static, arXiv 2603.13358"),
)
STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _KNOWN}


def parse_strategy(text: str) -> Strategy:
    """`dynamo`, or tuned: `dynamo:overlap_weight=2,local=1000`; `local` sets local_tokens.

    A policy's own name is a strategy, too. Raises StrategyError.
    """
    name, _, settings = text.strip().partition(":")
    known = STRATEGIES.get(name)
    if known is None and name in POLICIES:
        known = Strategy(name, name, _DEFAULT_LOCAL_TOKENS, "a policy of router.policies")
    if known is None:
        raise StrategyError(f"no policy {name!r}; there are {', '.join(STRATEGIES)}")
    parts = [part.strip() for part in settings.split(",") if part.strip()]
    local = [part.removeprefix("local=") for part in parts if part.startswith("local=")]
    if any(not number.isdigit() for number in local):
        raise StrategyError(f"policy {text!r}: local= takes a number of tokens")
    tuned = ",".join(part for part in parts if not part.startswith("local="))
    policy = f"{known.policy}:{tuned}" if tuned else known.policy
    try:
        policy_named(policy)
    except ValueError as error:
        raise StrategyError(str(error)) from error
    local_tokens = int(local[-1]) if local else known.local_tokens
    return replace(known, name=text.strip(), policy=policy, local_tokens=local_tokens)
