"""Weights of which only some columns are wanted."""

from dataclasses import dataclass

from torch import Tensor

from engine.models.parts import TensorSource


@dataclass(frozen=True, slots=True)
class Columns:
    """A source whose matrices are a run of another's columns; vectors are as they are there."""

    source: TensorSource
    columns: range
    num_columns: int  # of the other

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name and shape. Raises ModelError when there is none."""
        if len(shape) == 1:
            return self.source.tensor(name, shape)
        assert shape[1] == len(self.columns), name
        whole = self.source.tensor(name, (shape[0], self.num_columns))
        return whole[:, self.columns.start : self.columns.stop].contiguous()
