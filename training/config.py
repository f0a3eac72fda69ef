"""The typed schema of a recipe, and how one is read: what may be set, and what it means.

Every field is documented by the comments of `configs/paper.yaml`; the defaults here are that recipe's.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from infogan.changes import Changes
from infogan.errors import UserError
from infogan.views import Views
from training.checks import check_config

# Taken as they are typed: a path may look like a number, and a # in it begins no comment.
TEXT_KEYS = (
    *("name", "run.dir", "transfer", "data.fit", "data.cache", "probe.labels"),
    *("train.precision", "train.selection", "model.generator.growth"),
)
PATH_KEYS = ("data.root", "probe.root")  # the same, unless a list
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
    straightening: int = 0


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
    changes: Changes = field(default_factory=Changes)


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
