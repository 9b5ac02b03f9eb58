"""Rows that are multiplied with a weight of their group's, sorted by group on the device."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowGroups:
    """P rows in the order of their groups, cut into tiles none of which spans two groups.

    There are as many tiles as could be needed; those that are not have no group. Nothing is read
    on the host.

        rows      | group 0     | group 2 | group 3        |
        tiles     |   0   |  1  |    2    |   3    |   4   | unused ...
    """

    order: Tensor  # [P] int64, which (row, choice) stands at each place
    group_of: Tensor  # [tiles] int64, num_groups for an unused tile
    first: Tensor  # [tiles] int64, the first place of each tile
    end: Tensor  # [tiles] int64, behind the last place of its group
    tile_rows: int

    @classmethod
    def of(cls, chosen: Tensor, num_groups: int) -> "RowGroups":
        """chosen [T, k] int64: the groups of each row, which is then there k times."""
        flat = chosen.flatten()
        tile_rows = 16 if flat.shape[0] <= 16 * num_groups else 64
        counts = torch.zeros(num_groups, dtype=torch.int64, device=flat.device)
        counts.scatter_add_(0, flat, torch.ones_like(flat))
        ends = counts.cumsum(0)
        tiles = (counts + tile_rows - 1) // tile_rows
        tile_ends = tiles.cumsum(0)
        most = flat.shape[0] // tile_rows + min(num_groups, flat.shape[0])
        numbers = torch.arange(most, device=flat.device)
        group_of = torch.searchsorted(tile_ends, numbers, right=True)
        known = group_of.clamp(max=num_groups - 1)
        within = numbers - (tile_ends - tiles)[known]
        return cls(
            order=flat.argsort(stable=True),
            group_of=group_of,
            first=(ends - counts)[known] + within * tile_rows,
            end=ends[known],
            tile_rows=tile_rows,
        )


class GroupedProduct(Protocol):
    """The product of rows with the weights of their groups."""

    def __call__(self, x: Tensor, rows: Tensor, weights: Tensor, groups: RowGroups) -> Tensor:
        """x [n, in_features], rows [P] int64: which of x stands at each place, weights
        [num_groups, out_features, in_features] -> [P, out_features]."""


def grouped_twin(x: Tensor, rows: Tensor, weights: Tensor, groups: RowGroups) -> Tensor:
    """Tile by tile in plain torch."""
    out = x.new_empty(rows.shape[0], weights.shape[1])
    tiles = zip(groups.group_of.tolist(), groups.first.tolist(), groups.end.tolist(), strict=True)
    for group, first, end in tiles:
        if group < weights.shape[0]:
            places = slice(first, min(first + groups.tile_rows, end))
            out[places] = x[rows[places]] @ weights[group].T
    return out
