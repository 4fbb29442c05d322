"""The one Protocol through which a cluster is looked at and changed."""

from typing import Protocol

from rpicluster.design.plan import Observed, Step


class Place(Protocol):
    """Where a cluster stands: the local engine, nodes behind SSH, or a fake in tests."""

    def observe(self) -> Observed:
        """Look at every node once and return what is there; writes nothing."""
        ...

    def apply(self, step: Step) -> None:
        """Carry out one step of a plan; safe to repeat. Raises RpiclusterError."""
        ...
