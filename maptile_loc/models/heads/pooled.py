"""CrossLocate's descriptor: the greatest value of each normalised feature over the tile.

Tomesek et al., WACV 2022, section 4.1, with the feature x_p at position p of the map:
``d = y / |y|, y_c = max_p x_pc / |x_p|``. The ablation SPoC (Babenko and Lempitsky, ICCV 2015) has
the sum over p in place of the maximum.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional


class GlobalPool(nn.Module):
    """(B, C, H, W) maps -> (B, C) vectors of unit length.

    Args:
        how: The greatest value over the positions, or the sum.
    """

    def __init__(self, how: Literal["max", "sum"]) -> None:
        super().__init__()
        self.how = how

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        each = functional.normalize(maps, dim=1).flatten(2)
        pooled = each.amax(2) if self.how == "max" else each.sum(2)
        return functional.normalize(pooled, dim=1)
