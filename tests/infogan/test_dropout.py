"""Our dropout keeps PyTorch's promises."""

from __future__ import annotations

import pytest
import torch

from infogan.dropout import Dropout


@pytest.mark.parametrize("share", [0.4, 0.5, 0.99])
def test_the_share_dropped_and_the_mean_are_right(share: float) -> None:
    torch.manual_seed(0)
    maps = torch.ones(8, 16, 64, 33).to(memory_format=torch.channels_last)
    dropped = Dropout(share)(maps)
    assert dropped.stride() == maps.stride()
    spread = (share * (1 - share) / maps.numel()) ** 0.5
    assert abs((dropped == 0).double().mean() - share) < 5 * spread + 2**-16
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-2 if share == 0.99 else 1e-4)


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(2**20)) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8, 64):
        assert abs((kept[lag:] * kept[:-lag]).mean()) < 5 * 0.25 / 2**10


def test_it_is_a_function_of_the_seed_whatever_the_threads() -> None:
    threads = torch.get_num_threads()
    drawn = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(3)
            drawn.append(Dropout(0.4)(torch.ones(5, 7, 31)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], Dropout(0.4)(torch.ones(5, 7, 31)))


def test_the_gradient_is_the_mask_and_use_is_the_identity() -> None:
    maps = torch.rand(3, 50, requires_grad=True)
    dropped = Dropout(0.5)(maps)
    dropped.sum().backward()
    assert torch.equal(maps.grad, torch.where(dropped == 0, 0.0, 2.0))
    assert torch.equal(Dropout(0.5).eval()(maps), maps) and torch.equal(Dropout(0.0)(maps), maps)
