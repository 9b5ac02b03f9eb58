"""Keeps an answer to a grammar: which tokens may come next, given those that came."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wire.messages import Grammar


class Matcher(Protocol):
    """One answer's place in its grammar."""

    def allowed(self) -> NDArray[np.bool_]:
        """[vocab or more]: the tokens that may come next; end tokens once the answer may end."""
        ...

    def consume(self, token: int) -> bool:
        """Moves on by a token; False when the grammar does not allow it."""
        ...


# Raises BatonError INVALID_REQUEST for a grammar that cannot be compiled.
OpenMatcher = Callable[[Grammar], Matcher]
