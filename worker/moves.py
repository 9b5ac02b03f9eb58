"""Which role a worker has, and which of its running legs should go on elsewhere. Pure."""

from collections.abc import Iterable

from wire.messages import Role


class Moves:
    """The worker's side of role flips and migrations; it asks, the relay moves.

        DECODE <--flip--> PREFILL     the role holds at once; legs of the role before run on
        any --drain--> draining       for good

    A leg that decodes is asked to move once: while the worker drains or prefills, when it is one
    of the longest that an order names, or when the KV pool is fuller than `move_above` (a share,
    0: never) and no other leg that was asked is still here.
    """

    def __init__(self, role: Role, move_above: float = 0.0) -> None:
        self.role = role
        self.role_epoch = 0
        self.is_draining = False
        self._move_above = move_above
        self._num_tokens: dict[int, int] = {}  # of legs that decode, by seq_id
        self._asked: set[int] = set()
        self._before: set[int] = set()  # legs of the role before the last flip

    @property
    def is_flipping(self) -> bool:
        """Legs of the role before are still running."""
        return bool(self._before)

    @property
    def is_leaving(self) -> bool:
        """No leg is to decode here."""
        return self.is_draining or self.role is Role.PREFILL

    def flip(self, role: Role, legs: Iterable[int]) -> bool:
        """Takes a role; `legs`: those under way for the other one. False when it is the role."""
        if role is self.role:
            return False
        self.role = role
        self.role_epoch += 1
        self._before = set(legs)
        return True

    def drain(self) -> None:
        self.is_draining = True

    def sampled(self, seq_id: int, num_tokens: int, kv_use: float) -> str | None:
        """A leg that decodes holds so many tokens; why it should move, None where it should not.

        kv_use: the share of the KV pool's blocks that is referenced.
        """
        self._num_tokens[seq_id] = num_tokens
        if seq_id in self._asked:
            return None
        reason = self._reason(seq_id, kv_use)
        if reason is not None:
            self._asked.add(seq_id)
        return reason

    def longest(self, count: int) -> list[int]:
        """The longest legs that decode, asked from here on; those that were asked are left out."""
        free = sorted(
            self._num_tokens.keys() - self._asked, key=lambda s: (-self._num_tokens[s], s)
        )
        self._asked.update(free[:count])
        return free[:count]

    def ended(self, seq_id: int) -> None:
        """A leg has ended here, one way or another."""
        self._num_tokens.pop(seq_id, None)
        self._asked.discard(seq_id)
        self._before.discard(seq_id)

    def _reason(self, seq_id: int, kv_use: float) -> str | None:
        if self.is_draining:
            return "the worker is draining"
        if self.role is Role.PREFILL:
            return "the worker prefills"
        is_full = 0 < self._move_above < kv_use
        if is_full and not self._asked and self._num_tokens[seq_id] == self._most_tokens:
            return f"{kv_use:.0%} of the KV pool is used"
        return None

    @property
    def _most_tokens(self) -> int:
        return max(self._num_tokens.values())
