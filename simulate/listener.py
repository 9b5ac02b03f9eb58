"""What a modelled engine tells the process around it."""

from typing import Protocol

from simulate.leg import Leg
from wire.messages import BlockEvent


class WorkerListener(Protocol):
    """What a worker tells, at the end of the step that brought it about."""

    def accepted(self, leg: Leg) -> None: ...

    def published(self, leg: Leg) -> None: ...

    def tokens_came(self, leg: Leg, is_last: bool) -> None:
        """The leg's first token or, where is_last, its last."""

    def transferred(self, leg: Leg, failure: str) -> None:
        """A pull has ended; failure is empty where the KV is here."""

    def blocks_changed(self, event: BlockEvent) -> None: ...
