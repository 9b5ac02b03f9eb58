"""Keeps groups of workers that pair (two versions in a roll-out) alike in their roles. Pure."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

G = TypeVar("G", bound=Hashable)
W = TypeVar("W")


def allot(sizes: Mapping[G, int], prefill: int) -> dict[G, int]:
    """How many of each group are to be prefill workers, in proportion to its size.

    A group of two or more keeps both roles where `prefill` and the rest suffice for that.
    """
    total = sum(sizes.values())
    prefill = min(prefill, total)
    several = [group for group, size in sizes.items() if size > 1]
    keeps_prefill, keeps_decode = prefill >= len(several), total - prefill >= len(several)
    allotted = {group: int(keeps_prefill and size > 1) for group, size in sizes.items()}
    most = {group: size - int(keeps_decode and size > 1) for group, size in sizes.items()}
    for _ in range(prefill - sum(allotted.values())):
        open_groups = [group for group in sizes if allotted[group] < most[group]]
        group = max(open_groups, key=lambda g: sizes[g] * prefill / total - allotted[g])
        allotted[group] += 1
    return allotted


def leaving_in_ratio(
    pool: Sequence[W],
    sizes: Mapping[G, int],
    group: Callable[[W], G],
    worth: Callable[[W], Any],
) -> list[W]:
    """The workers of one pool in the order in which they may leave it.

    sizes: of all groups, both pools counted. The next is of the group with the largest share in
    this pool, its last member only after all others; within a group, the one of the least worth.
    """
    waiting: dict[G, list[W]] = {}
    for worker in sorted(pool, key=worth, reverse=True):
        waiting.setdefault(group(worker), []).append(worker)
    ordered: list[W] = []
    while waiting:
        highest = max(_rank(waiting, sizes, name) for name in waiting)
        tied = [name for name in waiting if _rank(waiting, sizes, name) == highest]
        name = min(tied, key=lambda name: worth(waiting[name][-1]))
        ordered.append(waiting[name].pop())
        if not waiting[name]:
            del waiting[name]
    return ordered


def _rank(
    waiting: Mapping[G, Sequence[object]], sizes: Mapping[G, int], name: G
) -> tuple[bool, float]:
    return len(waiting[name]) > 1, len(waiting[name]) / sizes[name]
