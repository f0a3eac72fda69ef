"""What a comparison compares: rows by the names that `python -m retrieval compare --help` explains."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from infogan.errors import UserError
from infogan.photo import SIZE
from retrieval.decoding import tracked
from retrieval.directory import CONFIG, INT8, MODEL, RELEASED, locate
from retrieval.embedding import Fitted, Model
from retrieval.evaluate import UNTRAINED_SEED
from retrieval.extractor import Extractor
from retrieval.floors import FLOOR_FIT, Components, area_pixels

FLOORS = ("pixels16", "pixels32+pca64")
SETS = {
    "A": (
        *("mobilenetv1_100", "mobilenet_v2", "vgg16", "vgg19", "resnet50", "resnet101", "resnet152", "inception_v3"),
        *("inception_resnet_v2", "densenet121", "densenet169", "densenet201"),
    ),
    "C": ("alexnet+output",),
    "D": ("resnet50", "resnet50+pca128"),
    "E": ("vgg16+pca512",),
    "modern": (
        "vit_small_patch14_dinov2.lvd142m",
        "vit_base_patch16_clip_224.openai+output",
        "vit_base_patch16_siglip_224.webli",
    ),
}
DEFAULT = ("best+int8", "best", "best+untrained", *FLOORS, *SETS)
_PIXELS = re.compile(r"pixels(\d+)")
_COMPONENTS = re.compile(r"(.+)\+pca(\d+)")


@dataclass
class Row:
    """A model, and how many principal components of its features are taken; None: all features."""

    name: str
    model: Model
    components: int | None = None
    fitted: Components | None = None

    def __call__(self, prepared: np.ndarray) -> np.ndarray:
        """(n, …) prepared photos → (n, d) float32."""
        features = self.model.run(prepared)
        return self.fitted(features) if self.fitted else features

    @property
    def size(self) -> int:
        """Bytes of the model's file and of the components."""
        return self.model.size + (self.fitted.mean.nbytes + self.fitted.axes.nbytes if self.fitted else 0)

    def fit(self, features: np.ndarray) -> None:
        """Find the components on these, (N, D), unless all features are taken."""
        if self.components is not None:
            self.check(*features.shape)
            self.fitted = Components.of(features, self.components)

    def check(self, photos: int, width: int | None = None) -> None:
        """Refuse components that so many photos, of so many features if that is known, do not have."""
        if self.components is not None and not 1 <= self.components <= min(photos, width or photos):
            of = "" if width is None else f" of {width:,} features"
            raise UserError(
                f"{self.name}: {photos:,} photos{of} have no {self.components:,} components; take fewer, or fit on more"
                " photos"
            )


@dataclass(frozen=True)
class Missing:
    """A row that cannot be had, and why."""

    name: str
    reason: str
    weights: str = "no weights"


def load_rows(names: Sequence[str], weights_dir: Path | None = None, random_init: bool = False) -> list[Row | Missing]:
    """A row for each name, sets in full and nothing twice; a model that several rows name is loaded once.

    Raises:
        UserError: a name that is none; an extractor or a file of weights that is damaged; no such directory.
    """
    if weights_dir and not weights_dir.is_dir():
        raise UserError(f"{weights_dir}: no such directory of weights")
    wanted = list(dict.fromkeys(part for name in names for part in SETS.get(name, (name,))))
    loaded: dict[str, Model | Missing] = {}
    rows: list[Row | Missing] = []
    for name in tracked(wanted, "loading"):
        found = _COMPONENTS.fullmatch(name)
        base, components = (found[1], int(found[2])) if found else (name, None)
        if base not in loaded:
            loaded[base] = _load(base, weights_dir, random_init)
        model = loaded[base]
        rows.append(Missing(name, model.reason) if isinstance(model, Missing) else Row(name, model, components))
    return rows


def _load(name: str, weights_dir: Path | None, random_init: bool) -> Model | Missing:
    base, *suffixes = [name] if (Path(name) / CONFIG).exists() else name.split("+")
    known: dict[str, Callable[[], Model]]
    if found := _PIXELS.fullmatch(base):
        known = {"": partial(_pixels, base, int(found[1]))}
    elif base in RELEASED or (Path(base) / CONFIG).exists() or "/" in base:
        known = {kind: partial(_extractor, base, kind) for kind in ("", "int8", "untrained")}
    else:
        from retrieval.comparison.networks import NoWeights, load_network

        known = {kind: partial(load_network, base, bool(kind), weights_dir, random_init) for kind in ("", "output")}
        try:
            return _one_of(known, name, suffixes)()
        except NoWeights as error:
            return Missing(name, f"no weights: {error}")
    return _one_of(known, name, suffixes)()


def _one_of(known: dict[str, Callable[[], Model]], name: str, suffixes: Sequence[str]) -> Callable[[], Model]:
    kind = "+".join(suffixes)
    if kind not in known:
        allowed = ", ".join(f"+{suffix}" for suffix in known if suffix) or "none"
        raise UserError(f"model {name!r}: +{kind} is not known; before +pcaN, these are: {allowed}")
    return known[kind]


def _pixels(name: str, side: int) -> Model:
    if not side or SIZE % side:
        raise UserError(f"model {name!r}: the side must divide {SIZE}")
    return Model(name, Fitted(FLOOR_FIT), lambda photos: area_pixels(photos, side), weights="none needed")


def _extractor(name: str, kind: str) -> Model:
    directory = locate(name)
    untrained = UNTRAINED_SEED if kind == "untrained" else None
    extractor = Extractor.load(directory, threads=1, int8=kind == "int8", untrained=untrained)
    size = (directory / (INT8 if kind == "int8" else MODEL)).stat().st_size
    weights = "random, as a floor" if kind == "untrained" else "its own"
    return Model(f"{name}+{kind}" if kind else name, Fitted(extractor.fit), extractor.features, size, weights)
