"""An exported generator: latents in, photos out. It lies in an extractor's directory, where the export wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infogan.errors import UserError
from retrieval.directory import GENERATOR, read_config, read_files
from retrieval.extractor import session_options

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True)
class Latents:
    """How a generator's latents are made up, as `config.json` has it.

    Attributes:
        noise: length of the noise, uniform in −1…1.
        labels: of each continuous code in −1…1, what it changes: `["darker", "code 2"]`.
        categories: values of the categorical code; 0: there is none.
    """

    noise: int
    labels: list[str]
    categories: int


class Generator:
    """Draws photos. Safe to use from several threads.

    Raises:
        UserError: the directory has no generator, or it was changed after its export.
    """

    def __init__(self, directory: str | Path) -> None:
        import onnxruntime as ort

        directory = Path(directory)
        config = read_config(directory)
        content = read_files(directory, config, GENERATOR)
        try:
            self.latents = Latents(**config["generator"])
        except (KeyError, TypeError):
            raise UserError(f"{directory / 'config.json'}: says nothing of its generator; export again") from None
        options = session_options()
        self._session: ort.InferenceSession = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def draw(self, seed: int, codes: np.ndarray, category: int = 0) -> np.ndarray:
        """(N, 128, 128, 3) uint8 photos of (N, codes) codes in −1…1, all with the noise of this seed.

        Raises:
            UserError: not that many codes, or no such category.
        """
        latents = self.latents
        if codes.ndim != 2 or codes.shape[1] != len(latents.labels):
            raise UserError(f"codes of shape {codes.shape}; there are {len(latents.labels)} of them")
        if not 0 <= category < max(latents.categories, 1):
            raise UserError(f"category {category}; there are {latents.categories}")
        noise = np.random.default_rng(seed).uniform(-1, 1, latents.noise)
        one_hot = np.eye(latents.categories)[category] if latents.categories else np.empty(0)
        held = [np.tile(part, (len(codes), 1)) for part in (noise, one_hot)]
        latent = np.concatenate([held[0], codes, held[1]], 1).astype(np.float32)
        return self._session.run(None, {"latents": latent})[0].transpose(0, 2, 3, 1)
