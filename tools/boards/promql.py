"""PromQL of the panels: every expression follows the template variables of its board."""

_CLUSTER = 'cluster=~"$cluster"'
_MODEL = f'{_CLUSTER},model=~"$model"'
_OF_GATEWAY = f"and on (cluster, instance) baton_gateway_info{{{_MODEL}}}"
_ANY_WORKER = f"baton_worker_info{{{_MODEL}}} == 1"
_CHOSEN_WORKER = f'baton_worker_info{{{_MODEL},role=~"$role",worker=~"$worker"}} == 1'


def series(metric: str, labels: str = "") -> str:
    """A metric of the chosen clusters; labels: more matchers, as kind="remote"."""
    matchers = f"{_CLUSTER},{labels}" if labels else _CLUSTER
    return f"{metric}{{{matchers}}}"


def rate(metric: str, labels: str = "") -> str:
    return f"rate({series(metric, labels)}[$__rate_interval])"


def served(metric: str, labels: str = "") -> str:
    """A counter's rate at the gateways of the chosen models."""
    return f"({rate(metric, labels)} {_OF_GATEWAY})"


def at_gateways(metric: str, labels: str = "") -> str:
    """A gauge of the gateways of the chosen models."""
    return f"({series(metric, labels)} {_OF_GATEWAY})"


def of_workers(expression: str) -> str:
    """Those series that come from a worker of the chosen models."""
    return f"({expression} and on (cluster, instance) ({_ANY_WORKER}))"


def of_chosen(expression: str) -> str:
    """Those series that come from a worker of the chosen models, roles and ids."""
    return f"({expression} and on (cluster, instance) ({_CHOSEN_WORKER}))"


def by_worker(expression: str) -> str:
    """The chosen workers' series with the worker's id and role as labels."""
    return f"({expression} * on (cluster, instance) group_left (worker, role) ({_CHOSEN_WORKER}))"


def role_gauge(metric: str, labels: str = "") -> str:
    """A control plane's gauge by role; replicas that follow show what they last knew."""
    return f"max by (role) ({series(metric, labels)})"


def by_role(expression: str) -> str:
    """Sums over all workers of a role."""
    joined = f"{expression} * on (cluster, instance) group_left (role) ({_ANY_WORKER})"
    return f"sum by (role) ({joined})"


def total(expression: str, *labels: str) -> str:
    """The sum, by labels where there are any."""
    return f"sum by ({', '.join(labels)}) ({expression})" if labels else f"sum({expression})"


def share(part: str, whole: str) -> str:
    return f"{total(part)} / {total(whole)}"


def quantile(q: float, buckets: str, *labels: str) -> str:
    """buckets: rates of a histogram's buckets; labels: one quantile for each."""
    return f"histogram_quantile({q}, {total(buckets, 'le', *labels)})"
