"""What is wrong with a workload, a trace or a result file, in one sentence."""


class LoadtestError(Exception):
    """Input that cannot be used, or a server that cannot be tested; the message says why."""


class LineError(LoadtestError):
    """One line of a file that cannot be used."""

    def __init__(self, path: object, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")
        self.line = line
        self.reason = reason
