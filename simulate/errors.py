"""What is wrong with a simulation's order, in one sentence."""


class SimulationError(Exception):
    """A cluster, a sweep or a workload that cannot be simulated; the message says why."""
