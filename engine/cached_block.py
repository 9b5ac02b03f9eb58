"""A full block in the prefix cache: a node of the tree of all cached prefixes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

NOWHERE = -1


@dataclass(slots=True, eq=False)
class CachedBlock:
    """Two blocks are equal when their tokens are and their parents are the same node; the hash only
    finds the candidate. `salt` separates the trees of tenants and counts at the root.

    block_id, host_slot: where the content is, in one tier or both; NOWHERE in both for a node that
    has left the cache.
    """

    block_id: int
    hash: int
    tokens: bytes
    parent: "CachedBlock | None"
    salt: str
    children: dict[int, "CachedBlock"] = field(default_factory=dict)  # by hash
    host_slot: int = NOWHERE

    @property
    def is_on_device(self) -> bool:
        return self.block_id != NOWHERE

    @property
    def is_on_host(self) -> bool:
        return self.host_slot != NOWHERE

    @property
    def is_cached(self) -> bool:
        return self.is_on_device or self.is_on_host

    def is_block(self, tokens: bytes, parent: "CachedBlock | None", salt: str) -> bool:
        return self.tokens == tokens and self.parent is parent and self.salt == salt

    def subtree(self) -> Iterator["CachedBlock"]:
        """This node and all below it, parents before their children."""
        pending = [self]
        while pending:
            node = pending.pop()
            pending.extend(node.children.values())
            yield node

    def subtree_on_device(self) -> list["CachedBlock"]:
        """The same without what the device does not hold, children before their parents."""
        found: list[CachedBlock] = []
        pending = [self]
        while pending:
            node = pending.pop()
            pending.extend(child for child in node.children.values() if child.is_on_device)
            found.append(node)
        return found[::-1]
