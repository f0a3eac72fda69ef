"""What the board draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.board import Board, grid


def test_a_grid_goes_row_by_row_on_white() -> None:
    photos = torch.arange(3).view(3, 1, 1, 1).expand(3, 3, 4, 5).to(torch.uint8)
    drawn = grid(photos, columns=2)
    assert drawn.shape == (2 * 6 + 2, 2 * 7 + 2, 3)
    assert (drawn[2:6, 2:7] == 0).all() and (drawn[2:6, 9:14] == 1).all() and (drawn[8:12, 2:7] == 2).all()
    assert (drawn == 255).sum() == drawn.size - 3 * 4 * 5 * 3
    assert np.array_equal(drawn[8:12, 9:14], np.full((4, 5, 3), 255))


def test_pictures_are_there_when_the_board_is_finished(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    board = Board(tmp_path, 0)
    for step in range(12):  # more than may wait
        board.picture("fakes", torch.full((4, 3, 8, 8), step / 12), 2, step * 1000)
    board.finish()
    for step in range(12):
        with Image.open(tmp_path / "grids" / f"fakes-{step:06d}.png") as drawn:
            assert np.asarray(drawn)[4, 4, 0] == round(step / 12 * 255)
    board.close()


def test_a_picture_that_cannot_be_written_is_told_by_name(tmp_path: Path) -> None:
    board = Board(tmp_path, 0)  # there is no grids/
    board.picture("fakes", torch.zeros(4, 3, 8, 8), 2, 0)
    with pytest.raises(FileNotFoundError) as raised:
        board.close()
    assert str(raised.value.filename) == str(tmp_path / "grids" / "fakes-000000.png")
