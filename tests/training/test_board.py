"""What the board draws."""

from __future__ import annotations

import numpy as np
import torch

from training.board import grid


def test_a_grid_goes_row_by_row_on_white() -> None:
    photos = torch.arange(3).view(3, 1, 1, 1).expand(3, 3, 4, 5).to(torch.uint8)
    drawn = grid(photos, columns=2)
    assert drawn.shape == (2 * 6 + 2, 2 * 7 + 2, 3)
    assert (drawn[2:6, 2:7] == 0).all() and (drawn[2:6, 9:14] == 1).all() and (drawn[8:12, 2:7] == 2).all()
    assert (drawn == 255).sum() == drawn.size - 3 * 4 * 5 * 3
    assert np.array_equal(drawn[8:12, 9:14], np.full((4, 5, 3), 255))
