"""Names for a generator's codes: what each of them changes most that can be measured in a photo."""

from __future__ import annotations

import torch
from torch import Tensor

from infogan.generator import Generator

NOISES = 64
_LEAST = 0.5  # standard deviations between the ends of a code; what moves less has no name
_NAMES = {
    "darkness": ("lighter", "darker"),
    "colour": ("plainer", "more colourful"),
    "warmth": ("cooler", "warmer"),
    "height": ("lower", "taller"),
    "length": ("shorter", "longer"),
    "fullness": ("slighter", "fuller"),
    "weight": ("heavier left", "heavier right"),
}


@torch.no_grad()
def name_codes(generator: Generator, seed: int = 0) -> list[str]:
    """A label for each continuous code: `darker` where its positive end is, else `code 3`.

    The measures of photos drawn at both ends of a code are compared, for the same 64 noises, in standard deviations of
    photos drawn at random. The largest move names its code after its measure, then the largest of what is left, down to
    half a deviation: so no two codes are called after the same measure.
    """
    prior = generator.prior
    source = torch.Generator().manual_seed(seed)
    latents = prior.sample(NOISES, torch.device("cpu"), source)
    spread = {name: values.std().clamp_min(1e-6) for name, values in _measures(generator(latents)).items()}
    moves: dict[tuple[int, str], float] = {}
    for code in range(prior.codes):
        ends = []
        for value in (-1.0, 1.0):
            moved = latents.clone()
            moved[:, prior.noise + code] = value
            ends.append(_measures(generator(moved)))
        moves |= {(code, name): float((ends[1][name] - ends[0][name]).mean() / spread[name]) for name in _NAMES}
    labels: dict[int, str] = {}
    taken: set[str] = set()
    for (code, name), move in sorted(moves.items(), key=lambda item: -abs(item[1])):
        if abs(move) >= _LEAST and code not in labels and name not in taken:
            labels[code] = _NAMES[name][move > 0]
            taken.add(name)
    return [labels.get(code, f"code {code + 1}") for code in range(prior.codes)]


def _measures(photos: Tensor) -> dict[str, Tensor]:
    """(N, 3, 128, 128) in −1…1 → what can be said of each photo, (N,)."""
    colours = photos / 2 + 0.5
    ink = (1 - colours.amin(1)).clamp(0, 1)  # 0 where the paper is white
    total = ink.sum((1, 2)).clamp_min(1e-3)

    def mean(values: Tensor) -> Tensor:
        """Where the ink is."""
        return (values * ink).sum((1, 2)) / total

    places = torch.linspace(-1, 1, photos.shape[-1])
    x, y = places.expand(ink.shape), places.unsqueeze(1).expand(ink.shape)
    centre_x, centre_y = mean(x), mean(y)
    return {
        "darkness": mean(1 - colours.mean(1)),
        "colour": mean(colours.amax(1) - colours.amin(1)),
        "warmth": mean(colours[:, 0] - colours[:, 2]),
        "height": mean((y - centre_y[:, None, None]) ** 2).sqrt(),
        "length": mean((x - centre_x[:, None, None]) ** 2).sqrt(),
        "fullness": ink.mean((1, 2)),
        "weight": centre_x,
    }
