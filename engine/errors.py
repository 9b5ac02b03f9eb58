"""The errors that the engine raises about the world: model directories, devices, memory."""

from pathlib import Path


class ModelError(Exception):
    """A model directory that cannot be served; names the file and what is wrong with it."""

    code = "model_unusable"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class UnknownArchitectureError(ModelError):
    """A model of an architecture that the engine has no layers for."""
