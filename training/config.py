"""The typed schema of a recipe: what may be set, what it means, and what values make sense.

Every field is documented by the comments of `configs/paper.yaml`; the defaults here are that recipe's.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from infogan.errors import UserError
from infogan.photo import FITS
from infogan.views import Views

GROWTHS = ("even", "double")
PRECISIONS = ("32-true", "bf16-mixed", "64-true")
# Taken as they are typed: a path may look like a number, and a # in it begins no comment.
TEXT_KEYS = (
    *("name", "run.dir", "transfer", "data.fit", "data.cache", "probe.labels"),
    *("train.precision", "train.selection", "model.generator.growth"),
)
PATH_KEYS = ("data.root", "probe.root")  # the same, unless a list
RULES = ("last", "paper_window", "rankme", "recall", "probe")
# What may differ between the call that began a run and the one that goes on with it.
RESUMABLE = (
    *("run.dir", "data.cache", "probe.root", "probe.labels", "probe.photos", "train.kimg", "train.checkpoint_kimg"),
    *("train.status_kimg", "train.grid_kimg", "train.selection", "train.devices", "train.nodes"),
)


@dataclass
class RunConfig:
    dir: str | None = None


@dataclass
class DataConfig:
    root: Any = "???"
    fit: str = "stretch"
    cache: str | None = None


@dataclass
class ProbeConfig:
    photos: int = 1000
    root: Any = None
    labels: str | None = None


@dataclass
class TrunkConfig:
    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 128, 256, 16])
    strides: list[int] = field(default_factory=lambda: [2, 1, 2, 1, 2, 1])
    input_size: list[int] = field(default_factory=lambda: [64, 96])
    dropout: float = 0.5
    directions: int = 0
    cell: int = 8
    hidden: int = 0
    framing: float | None = None


@dataclass
class EyesConfig:
    channels: list[int] = field(default_factory=list)
    strides: list[int] = field(default_factory=list)


@dataclass
class GeneratorConfig:
    noise: int = 100
    channels: list[int] = field(default_factory=lambda: [256, 128, 64, 32, 16, 16, 3])
    start: list[int] = field(default_factory=lambda: [4, 6])
    dropout: float = 0.4
    growth: str = "even"


@dataclass
class ModelConfig:
    codes: int = 8
    categories: int = 0
    hidden: int = 0
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    eyes: EyesConfig = field(default_factory=EyesConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)


@dataclass
class NeighboursConfig:
    weight: float = 0
    count: int = 5
    views: Views = field(default_factory=Views)


@dataclass
class ContrastConfig:
    kimg: float = 0
    lr: float = 1e-3
    temperature: float = 0.15
    views: Views = field(default_factory=Views)


@dataclass
class TrainConfig:
    kimg: float = 2000
    batch_size: int = 64
    fakes: int | None = None
    views: Views | None = None
    lr_discriminator: float = 2e-4
    lr_generator: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.5, 0.999])
    mi_weight: float = 0.05
    code_deviation: float = 1.0
    real_gradient: float = 1.0
    code_gradient: float = 1.0
    ema_kimg: float = 0
    checkpoint_kimg: float = 50
    status_kimg: float = 1
    grid_kimg: float = 10
    selection: str = "recall"
    devices: Any = "auto"
    nodes: int = 1
    sync_batch_norm: bool = True
    precision: str = "32-true"
    compile: bool = False


@dataclass
class Config:
    name: str = "paper"
    seed: int = 0
    transfer: str | None = None
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    neighbours: NeighboursConfig = field(default_factory=NeighboursConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)


def load_config(path: str | Path | None, overrides: list[str]) -> DictConfig:
    """Schema ← YAML file ← `key=value` overrides, checked.

    Raises:
        UserError: no such file, bad YAML, an unknown key (the nearest known one is named), a wrong type, or a value
            that makes no sense.
    """
    config = OmegaConf.structured(Config)
    try:
        if path is not None:
            config.name = Path(path).stem
            config = OmegaConf.merge(config, load_yaml(_existing(path)))
        for override in overrides:
            config = _with(config, override)
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from None
    check_config(config)
    return config


def load_yaml(path: str | Path) -> DictConfig:
    """The keys and values of a YAML file, unchecked.

    Raises:
        UserError: it cannot be read, is not YAML in UTF-8, or holds no keys.
    """
    try:
        written = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeError, OSError) as error:
        raise UserError(f"{path}: not valid YAML in UTF-8 ({' '.join(str(error).split())})") from None
    if not isinstance(written, DictConfig):
        raise UserError(f"{path}: not a config; it must hold keys and values")
    return written


def _with(config: DictConfig, text: str) -> DictConfig:
    """The config with one `key=value` of the command line in it."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text!r} is neither a .yaml file nor key=value")
    if text.encode("utf-8", "replace").decode() != text:
        raise UserError(f"{key}: the value is not UTF-8; rename what it names")
    if key in TEXT_KEYS or (key in PATH_KEYS and not value.startswith("[")):
        typed = OmegaConf.create()
        OmegaConf.update(typed, key, None if value == "null" else value)
        return OmegaConf.merge(config, typed)  # type: ignore[return-value]
    try:
        return OmegaConf.merge(config, OmegaConf.from_dotlist([text]))  # type: ignore[return-value]
    except (yaml.YAMLError, TypeError, IndexError):
        raise UserError(f"{text}: not a key and a YAML value; quote what is special in it") from None


def config_difference(old: DictConfig, new: DictConfig) -> list[str]:
    """The keys whose values differ in a way that would make another run of it, dotted."""
    before, after = flat(old), flat(new)
    keys = sorted(before.keys() | after.keys())
    return [key for key in keys if key not in RESUMABLE and before.get(key) != after.get(key)]


def photo_roots(config: DictConfig, section: str = "data") -> list[str]:
    """`data.root`, or another section's, as a list of absolute paths."""
    roots = OmegaConf.to_container(config[section]).get("root", "???")  # type: ignore[union-attr]
    if roots == "???" or not roots:
        key = f"{section}.root"
        raise UserError(f"{key} is not set; name a folder or a zip of photos: {key}=PATH or {key}=[A,B]")
    return [str(Path(str(root)).expanduser().absolute()) for root in (roots if isinstance(roots, list) else [roots])]


def _existing(path: str | Path) -> str | Path:
    if not Path(path).is_file():
        known = ", ".join(str(p) for p in sorted(Path("configs").glob("*.yaml")))
        raise UserError(f"{path}: no such config" + (f"; there are {known}" if known else ""))
    return path


def flat(config: DictConfig) -> dict[str, Any]:
    """Values by dotted key; a list is one value."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix: node}
        return {k: v for key, child in node.items() for k, v in walk(child, f"{prefix}.{key}".lstrip(".")).items()}

    return walk(OmegaConf.to_container(config), "")


def _explain(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None) or "config"
    reason = str(error.msg or error).splitlines()[0]
    if "not in" not in reason:
        return f"{key}: {reason}"
    known = flat(OmegaConf.structured(Config))
    sections = {name.partition(".")[0] for name in known}
    near = difflib.get_close_matches(str(key), [*known, *sections], n=1, cutoff=0.5)
    return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}")


def check_config(config: DictConfig) -> None:
    """Refuse values that make no sense, naming the key and what it must be.

    Raises:
        UserError: for the first such value.
    """
    model, train, neighbours, contrast = config.model, config.train, config.neighbours, config.contrast
    sees = model.trunk.directions > 0 and len(model.trunk.channels) > 0
    rules = [
        ("data.fit", config.data.fit in FITS, f"one of {', '.join(FITS)}"),
        ("name", re.fullmatch(r"[\w.-]+", config.name) is not None, "letters, digits, dots and dashes"),
        ("seed", 0 <= config.seed < 2**63, "0 or more, and less than 2⁶³"),
        ("model.codes", model.codes >= 1, "1 or more"),
        *_stage_rules(model, "trunk", needed=model.trunk.directions == 0, most=3 if sees else 2),
        *_stage_rules(model, "eyes", needed=False, most=2),
        *_edge_rules(model.trunk),
        ("model.trunk.input_size", _positive(model.trunk.input_size, 2), "two numbers, height and width"),
        ("model.trunk.dropout", 0 <= model.trunk.dropout <= 0.99, "in 0 … 0.99"),
        ("model.trunk.directions", model.trunk.directions >= 0, "0 or more"),
        ("model.trunk.framing", model.trunk.framing is None or 0 <= model.trunk.framing <= 1, "null or in 0 … 1"),
        ("model.categories", model.categories == 0 or model.categories >= 2, "0, or 2 or more"),
        ("model.hidden", model.hidden >= 0, "0 or more"),
        ("model.generator.growth", model.generator.growth in GROWTHS, f"one of {', '.join(GROWTHS)}"),
        ("model.generator.noise", model.generator.noise >= 1, "1 or more"),
        ("model.generator.channels", _positive(model.generator.channels), "a list of numbers ≥ 1"),
        ("model.generator.channels", list(model.generator.channels)[2:][-1:] == [3], "3 or more numbers, 3 the last"),
        ("model.generator.start", _positive(model.generator.start, 2), "two numbers, height and width"),
        ("model.generator.dropout", 0 <= model.generator.dropout <= 0.99, "in 0 … 0.99"),
        ("train.kimg", 0 < train.kimg < math.inf, "more than 0"),
        ("train.batch_size", train.batch_size >= 2, "2 or more, for batch norm"),
        ("train.fakes", train.fakes is None or train.fakes >= 0, "null or 0 or more"),
        (
            "train.fakes",
            train.fakes != 0 or neighbours.weight > 0,
            "more where neighbours.weight is 0",
        ),
        ("train.real_gradient", 0 <= train.real_gradient <= 1, "in 0 … 1"),
        ("train.code_gradient", 0 <= train.code_gradient <= 1, "in 0 … 1"),
        *_view_rules("train.views", train.views),
        ("neighbours.weight", 0 <= neighbours.weight < math.inf, "0 or more"),
        (
            "neighbours.weight",
            neighbours.weight == 0 or model.trunk.directions > 0,
            "0 where model.trunk.directions is 0",
        ),
        ("neighbours.count", neighbours.count >= 0, "0 or more"),
        *_view_rules("neighbours.views", neighbours.views),
        ("contrast.kimg", 0 <= contrast.kimg < math.inf, "0 or more"),
        (
            "contrast.kimg",
            (contrast.kimg > 0) == sees or (sees and config.transfer is not None),
            "more than 0 where a trunk of edges has model.trunk.channels, unless transfer brings learned ones, and 0"
            " elsewhere",
        ),
        ("contrast.lr", 0 < contrast.lr < math.inf, "more than 0"),
        ("contrast.temperature", 0.01 <= contrast.temperature < math.inf, "0.01 or more"),
        *_view_rules("contrast.views", contrast.views),
        ("train.lr_discriminator", 0 < train.lr_discriminator < math.inf, "more than 0"),
        ("train.lr_generator", 0 < train.lr_generator < math.inf, "more than 0"),
        ("train.betas", len(train.betas) == 2 and all(0 <= beta < 1 for beta in train.betas), "two numbers in 0 … 1"),
        ("train.mi_weight", 0 <= train.mi_weight < math.inf, "0 or more"),
        ("train.code_deviation", 0.01 <= train.code_deviation < math.inf, "0.01 or more"),
        ("train.checkpoint_kimg", train.checkpoint_kimg >= 1, "1 or more: names count thousands"),
        ("train.status_kimg", train.status_kimg >= 0.001, "0.001 or more: one photo"),
        ("train.grid_kimg", train.grid_kimg >= 0.001, "0.001 or more: one photo"),
        ("probe.photos", config.probe.photos >= 16, "16 or more"),
        ("probe.labels", (config.probe.labels is None) == (config.probe.root is None), "set together with probe.root"),
        ("train.ema_kimg", 0 <= train.ema_kimg < math.inf, "0 or more"),
        ("train.selection", train.selection in RULES, f"one of {', '.join(RULES)}"),
        (
            "train.selection",
            train.selection != "probe" or config.probe.root is not None,
            "another rule: `probe` needs probe.root and probe.labels",
        ),
        ("train.devices", train.devices == "auto" or _is_count(train.devices), "auto, or a number of devices"),
        ("train.nodes", train.nodes >= 1, "1 or more"),
        ("train.precision", train.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    ]
    for key, holds, wanted in rules:
        if not holds:
            raise UserError(f"{key} is {OmegaConf.select(config, key)}; it must be {wanted}")


def _edge_rules(trunk: DictConfig) -> list[tuple[str, bool, str]]:
    """What a trunk of edge directions needs beside."""
    if not trunk.directions:
        return []
    reduction = math.prod(trunk.strides)
    seen = list(trunk.channels)[-1:] or [0]
    return [
        ("model.trunk.hidden", trunk.hidden >= 1, "1 or more where model.trunk.directions is not 0"),
        ("model.trunk.cell", trunk.cell >= 2, "2 or more"),
        ("model.trunk.input_size", all(s % trunk.cell == 0 for s in trunk.input_size), "multiples of model.trunk.cell"),
        ("model.trunk.channels", len(trunk.channels) != 1, "[] or two stages or more"),
        ("model.trunk.strides", list(trunk.strides)[-1:] in ([], [1]), "1 for the last stage, a 1×1 convolution"),
        (
            "model.trunk.input_size",
            all(s % reduction == 0 for s in trunk.input_size),
            "multiples of the product of model.trunk.strides",
        ),
        (
            "model.trunk.channels",
            seen[0] * trunk.cell**2 < trunk.directions * reduction**2,
            "fewer for the last stage: what is seen takes the place of edges, of which there are not so many",
        ),
    ]


def _stage_rules(model: DictConfig, part: str, needed: bool, most: int) -> list[tuple[str, bool, str]]:
    """What the convolutions of the trunk or of the discriminator's own eyes must be like."""
    key, channels, strides = f"model.{part}", model[part].channels, model[part].strides
    return [
        (f"{key}.channels", all(value >= 1 for value in channels) and (len(channels) > 0 or not needed), "numbers ≥ 1"),
        (f"{key}.strides", len(strides) == len(channels), f"as long as {key}.channels"),
        (f"{key}.strides", all(1 <= stride <= most for stride in strides), f"1 to {most} for each stage"),
    ]


def _view_rules(key: str, views: DictConfig | None) -> list[tuple[str, bool, str]]:
    """What random views may be like, where there are any."""
    if views is None:
        return []
    area = list(views.area)
    return [
        (f"{key}.area", len(area) == 2 and 0 < area[0] <= area[1] <= 4, "two numbers in 0 … 4, not 0, in order"),
        (f"{key}.aspect", 1 <= views.aspect <= 4, "in 1 … 4"),
        (f"{key}.shift", 0 <= views.shift <= 1, "in 0 … 1"),
        (f"{key}.turn", 0 <= views.turn <= 180, "in 0 … 180"),
        (f"{key}.gain", 0 <= views.gain <= 2, "in 0 … 2"),
    ]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _positive(values: Any, count: int | None = None) -> bool:
    return len(values) > 0 and all(value >= 1 for value in values) and count in (None, len(values))
